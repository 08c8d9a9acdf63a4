"""Writes files atomically, and reads text and JSON with one-sentence errors."""

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
    """A path beside `path`, with the same suffix, that replaces it when the block ends and is removed if it raises.

    Threads, processes and hosts may write the same file at once: the last one to end wins, with its complete file.
    """
    with beside(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new file beside `path`, with the same suffix and a random name, that is removed when the block ends, unless it
    was moved. The folder is created if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    temporary.touch(exist_ok=False)  # with the umask's permissions, which tempfile would not give
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises `UserError`, about `what`, if files of `needed` bytes do not fit on a folder's disk. Quotas are not
    considered."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} cannot be written to {folder}: {megabytes(needed)} are needed, {megabytes(free)} are free."
        )


def megabytes(count: int) -> str:
    """A number of bytes as text for a message."""
    return f"{count / 1e6:.1f} MB"


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, quota or file."""

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.\w+)?")
"""Pattern of the names that `beside` gives."""


def remove_leftovers(folder: Path) -> None:
    """Removes partial files of killed runs from a folder and its subfolders. No other run may be writing there."""
    for path in (*folder.glob(".*.tmp*"), *folder.glob("*/.*.tmp*")):
        if LEFTOVER.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)


def require_file(path: Path, name: str = "", error: type[UserError] = UserError) -> None:
    """Raises `error`, about `name`, if a path is something other than a file: opening a pipe would block until somebody
    writes into it."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # none, or an invalid name: reading it will raise
        return
    if not stat.S_ISREG(mode):
        raise error(f"{name or path} cannot be read: it is not a regular file.")


def require_name(path: str | Path) -> Path:
    """Returns the path; raises `UserError` for an invalid one, which is too long or contains a null byte."""
    try:
        os.stat(path)
    except ValueError:
        raise UserError(f"{shown(str(path))} is no name of a file.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{shown(str(path))} is too long for the name of a file.") from None
    return Path(path)


def parse_json(text: str | bytes) -> Any:
    """Parses JSON; raises ValueError, with one line, for anything unreadable, however deeply nested or long."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_text(path: Path, name: str) -> str:
    """Reads the UTF-8 text of a file or pipe; raises `UserError`, about `name`, if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text, its byte {error.start} cannot be read.") from None


def check_origin(path: Path, origin: dict[str, Any], what: str, option: str) -> None:
    """Records the inputs of `what` in a folder, or raises `UserError` if the record there has others.

    Args:
        path: file of the record, in the folder.
        origin: the inputs, as JSON.
        what: name for the message, such as "a training".
        option: the config's option that sets the folder.
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
