"""Opens one safetensors file, or the shards that an index lists, and checks every header first."""

import dataclasses
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ssd_jax.errors import UserError
from ssd_jax.files import parse_json, require_file

INDEX_SUFFIX = ".index.json"
"""Suffix of the index of a sharded checkpoint, such as model.safetensors.index.json."""

_LENGTH = 8
"""Number of bytes before the header, which hold its length."""

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
"""The supported dtypes, by their names in safetensors."""

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


class WeightsError(UserError):
    """A checkpoint file that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A stored tensor that is not read yet.

    Attributes:
        path: the safetensors file.
        kind: the dtype's name in safetensors, such as "BF16".
        shape: the tensor's shape.
        start, stop: its byte range in the file.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part of the tensor, given by one slice with step 1 per axis. Reads the wanted entries of axis 0 in file
        order; a memory-mapped file would be read in the order of the permuted axes."""
        first, stop, _ = index[0].indices(self.shape[0]) if self.shape else (0, 1, 1)
        size, dtype = math.prod(self.shape[1:]), np.dtype(_DTYPES[self.kind])
        offset = self.start + first * size * dtype.itemsize
        entries = np.fromfile(self.path, dtype, (stop - first) * size, offset=offset)
        return entries.reshape(stop - first, *self.shape[1:])[:, *index[1:]] if self.shape else entries[0]

    def read(self) -> bytes:
        """The stored bytes."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.stop - self.start)


@dataclasses.dataclass(frozen=True)
class Store:
    """The tensors of one file or of several; made by `opened`.

    Attributes:
        path: the file, or the index of the shards.
        tensors: by name, file by file, the best order to read them.
        metadata: text of the header; empty for shards.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def opened(path: Path) -> Store:
    """Reads the headers of a safetensors file or of those that an index lists.

    Raises:
        WeightsError: the file or a shard is missing, damaged or a pickle, or index and shards do not match. A header
            must match its file's size and describe every byte of it.
    """
    path = Path(path)
    if not path.name.endswith(INDEX_SUFFIX):
        return Store(path, *_read_header(path))
    tensors = {}
    for shard, wanted in _read_index(path).items():
        stored, _ = _read_header(path.parent / shard)
        for what, names in (("lacks", wanted - stored.keys()), ("has the unlisted", stored.keys() - wanted)):
            if names:
                raise WeightsError(f"{path}: {shard} {what} tensor {min(names)!r}{others(names)}.")
        tensors |= stored
    return Store(path, tensors, {})


def find_weights(folder: Path, stem: str = "model") -> Path:
    """The folder's `stem`.safetensors, or the index of its shards.

    Raises:
        WeightsError: there is neither; if the folder has pickles instead, the message says how to convert them.
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


def is_there(path: Path) -> bool:
    """Whether a folder has a safetensors file, or a dangling link in its place.

    Raises:
        WeightsError: there are pickles of that name instead.
    """
    if os.path.lexists(path):
        return True
    for suffix in sorted(_PICKLES):
        if path.with_suffix(suffix).exists():
            _refuse(path.with_suffix(suffix))
    return False


def _read_index(path: Path) -> dict[str, set[str]]:
    """The shards' file names and the tensors that they should hold."""
    require_file(path, error=WeightsError)
    try:
        weight_map = parse_json(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in weight_map.items()]
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} is not an index of safetensors files: JSON with 'weight_map'.") from None
    if not pairs:
        raise WeightsError(f"{path} lists no tensors.")
    shards: dict[str, set[str]] = {}
    for name, shard in pairs:
        if not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise WeightsError(f"{path} is refused: {shard!r} is not the name of a file beside it.")
        shards.setdefault(shard, set()).add(name)
    return dict(sorted(shards.items()))


def _read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of one file in the order of their bytes, and its metadata."""
    if path.suffix in _PICKLES:
        _refuse(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist.")
    require_file(path, error=WeightsError)
    try:
        with safe_open(path, framework="np") as file:  # checks the whole header
            names = file.offset_keys()
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header = parse_json(file.read(length))
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from None
    tensors = {}
    for name in names:
        start, stop = (_LENGTH + length + offset for offset in header[name]["data_offsets"])
        tensors[name] = Tensor(path, header[name]["dtype"], tuple(header[name]["shape"]), start, stop)
    return tensors, header.get("__metadata__") or {}


def _refuse(path: Path) -> NoReturn:
    state = "state |= torch.load(file, 'cpu', weights_only=True)" + ("['state_dict']" if path.suffix == ".ckpt" else "")
    raise WeightsError(
        f"{path} is refused: {path.suffix} files are pickles, which can run any code when loaded; convert it to "
        f"safetensors where PyTorch is installed: state = {{}}, for every such file {state}, then "
        f"safetensors.torch.save_file(state, '{'vqgan' if path.suffix == '.ckpt' else 'model'}.safetensors')."
    )


def others(names: Collection[str]) -> str:
    """ " (and 3 more)", after the first of four names."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
