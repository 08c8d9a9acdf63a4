"""Replaces the files of an earlier run of sample.py by those of a new one."""

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
"""Sidecar file, which lists a run's files -> its sheet of all images."""

PICTURES = (".png", ".gif")
"""Suffixes of the files that a sidecar may list."""


class Results:
    """The files that a run writes into its folder.

    Attributes:
        record: JSON, the sidecar's contents besides the files.
        removed: number of files of earlier runs that were removed or replaced; known at the end.
        unread: sidecars in the folder that are not ours or are damaged; no file that they list was removed.
    """

    def __init__(self, folder: Path, held: contextlib.ExitStack):
        self.record: dict[str, Any] = {}
        self.removed = 0
        self.unread: list[Path] = []
        self._folder, self._held = folder, held
        self._written: dict[str, Path] = {}

    def add(self, name: str) -> Path:
        """A temporary path for the file of this name."""
        self._written[name] = self._held.enter_context(beside(self._folder / name))
        return self._written[name]

    def put(self, sidecar: str) -> None:
        """Writes the sidecar and moves all files to their final names; see `replacing_results`."""
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
            if not placed:  # all files that they list still exist
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
    """Collects the files of a run, and moves them into a folder when the block ends.

    The earlier run is not touched until all new files are on disk and none has the name of a folder. Then its sidecars
    are removed, the new images moved to their final names, the other images of the earlier run removed, and the new
    sidecar moved last: a sidecar never describes other images than those beside it.

    An error during these moves is rare, and leaves no sidecar that lists missing files. If the first new image cannot
    be moved, the earlier run is still complete. If a later one cannot, the earlier run has lost its sidecars and the
    images replaced so far. If an earlier image cannot be removed, or the new sidecar cannot be moved, all new images
    exist, without a sidecar.

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
    """The images that the sidecars in a folder list, with the sidecars' sheets; these sidecars; and the sidecars that
    are not ours.

    Names come from a file and are not trusted: a sidecar with a name that is not an image in this folder is not ours,
    and its images are not returned. Only files and links are returned, not folders and devices.
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # for any JSON
        return None


def _is_picture_here(name: Any) -> bool:
    """Whether a name is an image's file name in this folder, and not a path, on any system."""
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\:")
    return plain and Path(name).suffix.lower() in PICTURES


def _has_mode(path: Path, *kinds: Callable[[int], bool]) -> bool:
    """Whether a path exists and is of one of these kinds; links are not followed."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # none, or an invalid name
        return False
    return any(kind(mode) for kind in kinds)
