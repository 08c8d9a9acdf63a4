"""Files that appear whole or not at all, and text that can be read or is one clear sentence."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ssd_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same suffix, that takes its place when the block ends and vanishes if it raises.

    The folder is made if absent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path, name: str) -> str:
    """The UTF-8 text of a file; raises `UserError` that calls it `name` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text, its byte {error.start} cannot be read.") from None


def require_writable(folder: Path) -> None:
    """Raises `UserError` before any work is done if files could not be written to a folder; makes nothing yet."""
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written to: {error.strerror}.") from None
