"""Files that appear whole or not at all, and text that can be read or is one clear sentence."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_jax.errors import UserError, shown


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same suffix, that takes its place when the block ends and vanishes if it raises.

    Threads, processes and hosts that write the same file do not meet: the last one to end wins, with the whole of its
    file.
    """
    with beside(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new file beside `path`, with the same suffix and a random name, that vanishes when the block ends, unless it
    was put elsewhere. The folder is made if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    temporary.touch(exist_ok=False)  # with the permissions that the umask allows, which tempfile would not give
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises `UserError`, which calls them `what`, if files of so many bytes do not fit on a folder's disk. A quota is
    not seen here."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} cannot be written to {folder}: {megabytes(needed)} are needed, {megabytes(free)} are free."
        )


def megabytes(count: int) -> str:
    """A number of bytes for a message."""
    return f"{count / 1e6:.1f} MB"


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system answers where a disk, a quota or a file is full."""

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.\w+)?")
"""Names that `beside` gives."""


def remove_leftovers(folder: Path) -> None:
    """Removes what killed runs left of files that they were writing, in a folder and in those inside it. For a folder
    that no other run is writing into."""
    for path in (*folder.glob(".*.tmp*"), *folder.glob("*/.*.tmp*")):
        if LEFTOVER.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)


def require_file(path: Path, name: str = "", error: type[UserError] = UserError) -> None:
    """Raises `error`, which calls it `name`, if there is something else than a file at a path: to open a pipe would
    wait for whoever writes into it."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # none, or a name that no file can have: reading it will say so
        return
    if not stat.S_ISREG(mode):
        raise error(f"{name or path} cannot be read: it is not a regular file.")


def require_name(path: str | Path) -> Path:
    """The path; raises `UserError` for one that no file can have, because it is too long or has a zero in it."""
    try:
        os.stat(path)
    except ValueError:
        raise UserError(f"{shown(str(path))} is no name of a file.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{shown(str(path))} is too long for the name of a file.") from None
    return Path(path)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text means; raises ValueError, with one line, for whatever cannot be read, however deep or long."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_text(path: Path, name: str) -> str:
    """The UTF-8 text of a file, or of a pipe; raises `UserError` that calls it `name` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text, its byte {error.start} cannot be read.") from None


def check_origin(path: Path, origin: dict[str, Any], what: str, option: str) -> None:
    """Records what `what` in a folder is built on, or raises `UserError` if it began from something else.

    Args:
        path: of the record, in the folder.
        origin: JSON.
        what: for the message, such as "a training".
        option: of the config, which names the folder.
    """
    origin = json.loads(json.dumps(origin))
    if path.exists():
        require_file(path)
        text = read_text(path, str(path))
        try:
            found = parse_json(text)
        except ValueError as error:
            raise UserError(f"{path} is not readable JSON: {error}.") from None
        if found != origin:
            found = found if isinstance(found, dict) else {}
            changed = ", ".join(key for key in {**origin, **found} if found.get(key) != origin.get(key))
            raise UserError(
                f"{path.parent} holds {what} with another {changed}; choose another {option} or remove that folder."
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
