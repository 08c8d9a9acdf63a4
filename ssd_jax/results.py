"""The files of a run of sample.py, which take the place of those of an earlier run."""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssd_jax.errors import UserError
from ssd_jax.files import beside

SHEETS = {"images.json": "grid.png", "compare.json": "compare.png"}
"""The sidecars, which list the files of a run, and the picture that goes with each."""

PICTURES = (".png", ".gif")
"""All that a sidecar may list."""


class Results:
    """The files that a run leaves in its folder.

    Attributes:
        record: JSON; what the sidecar says besides the files.
        removed: how many files of earlier runs were removed or replaced; known at the end.
        unread: sidecars in the folder that are not ours or are damaged; nothing that they list was removed.
    """

    def __init__(self, folder: Path, held: contextlib.ExitStack):
        self.record: dict[str, Any] = {}
        self.removed = 0
        self.unread: list[Path] = []
        self._folder, self._held = folder, held
        self._written: dict[str, Path] = {}

    def add(self, name: str) -> Path:
        """Where to write a file that shall have this name."""
        self._written[name] = self._held.enter_context(beside(self._folder / name))
        return self._written[name]

    def put(self, sidecar: str) -> None:
        """Writes the sidecar and puts all files in their places; see `replacing_results`."""
        text = json.dumps({**self.record, "files": list(self._written)}, indent=2) + "\n"
        self.add(sidecar).write_text(text, encoding="utf-8")
        for name in self._written:
            if _has_mode(self._folder / name, stat.S_ISDIR):
                raise UserError(f"The file {self._folder / name} cannot be written: a folder has its name.")
        pictures, sidecars, self.unread = earlier_files(self._folder)
        records = {path: path.read_bytes() for path in sidecars}
        *names, last = self._written
        placed = 0
        try:
            for path in sidecars:
                path.unlink()
            for name in names:
                os.replace(self._written[name], self._folder / name)
                placed += 1
        except OSError:
            if not placed:  # all that they list is still there
                for path, record in records.items():
                    path.write_bytes(record)
            raise
        for path in pictures:
            if path.name not in self._written:
                path.unlink()
        os.replace(self._written[last], self._folder / last)
        self.removed = len(pictures) + len(sidecars)


@contextlib.contextmanager
def replacing_results(folder: Path, sidecar: str) -> Iterator[Results]:
    """Takes the files of a run, and puts them into a folder when the block ends.

    Until all of them are on the disk, and none is to have the name of a folder, the earlier run is not touched. Then
    its sidecars are removed, the new pictures put in their places, the other pictures of the earlier run removed, and
    the new sidecar put in its place last: no sidecar ever stands beside pictures that it does not tell of.

    An error after that is rare, and leaves no sidecar that tells of what is not there. If the first of the new pictures
    cannot be put in its place, the earlier run is still whole. If a later one cannot, the earlier run has lost its
    sidecars and the pictures that were replaced by then. If an earlier picture cannot be removed, or the new sidecar
    cannot be put in its place, the new pictures are all there, without a sidecar.

    The folder should be locked.

    Raises:
        UserError: the files cannot be written, or a folder has the name of one.
    """
    try:
        with contextlib.ExitStack() as held:
            results = Results(folder, held)
            yield results
            results.put(sidecar)
    except OSError as error:
        raise UserError(f"The files cannot be written to the folder {folder}: {error.strerror or error}.") from None


def earlier_files(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The pictures that the sidecars in a folder list, with the sheets that go with them; these sidecars; and the
    sidecars that are not ours.

    Names come from a file, so they may be anybody's: one that is not of a picture in this very folder makes the sidecar
    one that is not ours, and its pictures are not told. Only files and links are told, not folders and devices.
    """
    names, sidecars, unread = [], [], []
    for name, sheet in SHEETS.items():
        path = folder / name
        if not path.is_file():
            continue
        listed = listed_files(path)
        if listed is None:
            unread.append(path)
        else:
            names += [*listed, sheet]
            sidecars.append(path)
    paths = [folder / name for name in dict.fromkeys(names)]
    return [path for path in paths if _has_mode(path, stat.S_ISREG, stat.S_ISLNK)], sidecars, unread


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


def _has_mode(path: Path, *kinds: Callable[[int], bool]) -> bool:
    """Whether there is something of one of these kinds; a link is a link, whatever it leads to."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # none, or a name that no file can have
        return False
    return any(kind(mode) for kind in kinds)
