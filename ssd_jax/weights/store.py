"""Stored tensors: one safetensors file, or the shards that an index lists. Opening checks every header first."""

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from ssd_jax.errors import UserError

INDEX_SUFFIX = ".index.json"
"""What the name of a sharded checkpoint's index ends with: model.safetensors.index.json."""

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


class WeightsError(UserError):
    """A checkpoint file that cannot be used."""


class Store:
    """Open tensors by name; made by `opened`.

    Attributes:
        path: the file, or the index of the shards.
        metadata: the text in the header; empty for shards.
    """

    def __init__(self, path: Path, files: Mapping[str, safe_open], metadata: Mapping[str, str]):
        self.path, self.metadata, self._files = path, dict(metadata), files

    @property
    def names(self) -> list[str]:
        """All tensors, in the order in which they are read best: file by file."""
        return list(self._files)

    def tensor(self, name: str) -> Any:
        """What slices of the tensor can be taken from, with `get_shape` and `get_dtype`; nothing is read yet."""
        return self._files[name].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self.tensor(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """A whole tensor."""
        return self._files[name].get_tensor(name)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    """Opens a safetensors file or an index.

    Raises:
        WeightsError: the file is missing, damaged or a pickle, a shard is, or index and shards do not fit together.
            A header must fit its file's size and describe every byte of it.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        if not path.name.endswith(INDEX_SUFFIX):
            file = stack.enter_context(_open(path))
            yield Store(path, dict.fromkeys(file.offset_keys(), file), file.metadata() or {})
            return
        files = {}
        for shard, wanted in _read_index(path).items():
            file = stack.enter_context(_open(path.parent / shard))
            stored = set(file.offset_keys())
            for what, names in (("lacks", wanted - stored), ("has the unlisted", stored - wanted)):
                if names:
                    raise WeightsError(f"{path}: {shard} {what} tensor {min(names)!r}{others(names)}.")
            files |= dict.fromkeys(file.offset_keys(), file)
        yield Store(path, files, {})


def find_weights(folder: Path, stem: str = "model") -> Path:
    """The folder's `stem`.safetensors, or the index of its shards.

    Raises:
        WeightsError: there is neither; where the folder has pickles instead, the error says how to convert them.
    """
    folder = Path(folder)
    single = folder / f"{stem}.safetensors"
    for path in (single, single.with_name(single.name + INDEX_SUFFIX)):
        if path.exists():
            return path
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES)
    if pickles:
        _refuse(folder / pickles[0])
    raise WeightsError(f"{single} does not exist.")


def _read_index(path: Path) -> dict[str, set[str]]:
    """The shards' file names and the tensors that they should hold."""
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in weight_map.items()]
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} is not an index of safetensors files: JSON with 'weight_map'.") from None
    shards: dict[str, set[str]] = {}
    for name, shard in pairs:
        if not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise WeightsError(f"{path} is refused: {shard!r} is not the name of a file beside it.")
        shards.setdefault(shard, set()).add(name)
    return dict(sorted(shards.items()))


def _open(path: Path) -> safe_open:
    if path.suffix in _PICKLES:
        _refuse(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist.")
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from None


def _refuse(path: Path) -> NoReturn:
    raise WeightsError(
        f"{path} is refused: {path.suffix} files are pickles, which can run any code when loaded; convert it to "
        "safetensors where PyTorch is installed: safetensors.torch.save_file(torch.load(file, weights_only=True), "
        "'model.safetensors')."
    )


def others(names: Collection[str]) -> str:
    """ " (and 3 more)", after the first of four names."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
