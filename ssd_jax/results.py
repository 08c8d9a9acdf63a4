"""The files of a run of sample.py, which take the place of those of an earlier run, all of them or none."""

import contextlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_jax.errors import UserError
from ssd_jax.files import replacing

SHEETS = {"images.json": "grid.png", "compare.json": "compare.png"}
"""The sidecars, which list the files of a run, and the picture that goes with each."""

PICTURES = (".png", ".gif")
"""All that a sidecar may list."""


class Results:
    """The files that a run leaves in its folder.

    Attributes:
        record: JSON; what the sidecar says besides the files.
        removed: how many files of earlier runs were removed; known at the end.
        unread: sidecars in the folder that are not ours or are damaged; nothing that they list was removed.
    """

    def __init__(self, folder: Path, held: contextlib.ExitStack):
        self.record: dict[str, Any] = {}
        self.removed = 0
        self.unread: list[Path] = []
        self._folder, self._held = folder, held
        self._names: list[str] = []

    def add(self, name: str) -> Path:
        """Where to write a file that shall have this name."""
        self._names.append(name)
        return self._held.enter_context(replacing(self._folder / name))

    def listed(self) -> dict[str, Any]:
        """What the sidecar says."""
        return {**self.record, "files": self._names}


@contextlib.contextmanager
def replacing_results(folder: Path, sidecar: str) -> Iterator[Results]:
    """Takes the files of a run, and puts them into a folder when the block ends.

    Only when all of them are on the disk are the files of earlier runs removed, which their sidecars list, then these
    put in their place, and the new sidecar last: until then the folder has the earlier run, whatever fails, and no
    sidecar ever stands beside pictures that it does not tell of. The folder should be locked.

    Raises:
        UserError: the files cannot be written.
    """
    try:
        with contextlib.ExitStack() as held:
            last = held.enter_context(replacing(folder / sidecar))  # what is entered first is put in its place last
            results = Results(folder, held)
            yield results
            last.write_text(json.dumps(results.listed(), indent=2) + "\n", encoding="utf-8")
            results.removed, results.unread = remove_earlier(folder)
    except OSError as error:
        raise UserError(f"The files cannot be written to the folder {folder}: {error.strerror or error}.") from None


def remove_earlier(folder: Path) -> tuple[int, list[Path]]:
    """Removes the files that the sidecars in a folder list, the sheets that go with them, and then the sidecars.

    Names come from a file, so they may be anybody's: one that is not of a picture in this very folder makes the sidecar
    one that is not ours, and removes nothing. Links are removed, not what they lead to; folders and devices stay.

    Returns:
        How many files were removed, and the sidecars that are not ours.
    """
    pictures, sidecars, unread = [], [], []
    for name, sheet in SHEETS.items():
        path = folder / name
        if not path.is_file():
            continue
        names = listed_files(path)
        if names is None:
            unread.append(path)
        else:
            pictures += [*names, sheet]
            sidecars.append(name)
    return sum(_removed(folder / name) for name in dict.fromkeys(pictures + sidecars)), unread


def listed_files(sidecar: Path) -> list[str] | None:
    """The names that a sidecar lists; None if it cannot be read or is not one of ours."""
    try:
        record = json.loads(sidecar.read_bytes())
        images = record["images"] if "options" in record else None
        names = [*record.get("files", []), *(image["file"] for image in images if "file" in image)]
        return names if all(map(_is_picture_here, names)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # whatever JSON may hold
        return None


def _is_picture_here(name: Any) -> bool:
    """Whether a name is that of a picture, and leads nowhere else; not a path, on whatever system."""
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\:")
    return plain and Path(name).suffix.lower() in PICTURES


def _removed(path: Path) -> bool:
    """Removes a file or a link; whether there was one."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # none, or a name that no file can have
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        return False
    path.unlink()
    return True
