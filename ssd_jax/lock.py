"""Locks a folder, so that only one run at a time writes into it."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from ssd_jax.errors import UserError
from ssd_jax.files import remove_leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
ATTEMPTS = 100


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder while the block runs, and removes partial files of killed runs.

    The folder is created if absent, and then removed at the end if nothing was written into it. The lock is the
    operating system's (flock) on a file `.lock` in the folder, so it ends with the process, however that ends; the file
    is removed when the block ends, and one left by a killed process has no effect. Over a network other hosts see the
    lock if the file system supports it (NFS does, unless mounted with nolock). On a file system without locks (with a
    warning) or on Windows, other runs are not kept out.

    Raises:
        UserError: another run has locked the folder, or it cannot be written to.
    """
    made: list[Path] = []
    try:
        try:
            path = Path(folder).absolute()
            made += [parent for parent in (path, *path.parents) if not parent.exists()]
            file = _take(path)
        except BlockingIOError:
            raise UserError(
                f"Another run is writing into the folder {folder}; wait for it or choose another."
            ) from None
        except OSError as error:
            raise UserError(f"The folder {folder} cannot be written to: {error.strerror}.") from None
        try:
            yield
        finally:
            if file is not None:
                # Removed before unlocking: a run that has opened this file sees that it is no longer the folder's.
                if _is_at(file, path / NAME):  # not another run's, created after this one was removed
                    (path / NAME).unlink(missing_ok=True)
                os.close(file)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


def _take(folder: Path) -> int | None:
    """The descriptor of the folder's locked lock file; None on Windows. Raises `BlockingIOError` if another process, or
    another caller in this one, has the lock."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                with tempfile.TemporaryFile(dir=folder):  # raises if nothing can be written
                    return None
            file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except (FileNotFoundError, FileExistsError):  # its creator is just removing it; or a file
            if attempt == ATTEMPTS:
                raise
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(file)
            raise BlockingIOError from None
        except OSError as error:
            warnings.warn(f"the folder {folder} cannot be locked: {error.strerror}", stacklevel=4)
            return file
        if _is_at(file, folder / NAME):
            with contextlib.suppress(OSError):  # they do no harm
                remove_leftovers(folder)
            return file
        os.close(file)  # removed between opening and locking
    raise BlockingIOError


def _is_at(file: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False
