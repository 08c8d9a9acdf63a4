"""What identifies the files of a checkpoint folder."""

import hashlib
from pathlib import Path

from ssd_jax.backbones import PUBLISHED
from ssd_jax.check.folder import Found
from ssd_jax.errors import UserError

BLOCK = 2**24
SHOWN = 16
"""Digits of a hash on the page: 64 bits tell any two files apart that were not made to be alike."""


def small_files(found: Found) -> dict[str, str]:
    """Name -> SHA-256 of the files that say what the model is: JSON, and the files of a tokenizer that is no JSON."""
    published = PUBLISHED.get(found.config.architecture)
    others = published.tokenizer.names if published and published.tokenizer else ()
    paths = [*found.folder.glob("*.json"), *(found.folder / name for name in others)]
    return {path.name: sha256(path) for path in sorted(paths) if path.is_file()}


def weight_files(found: Found, full: bool) -> list[tuple[str, int, str]]:
    """Name, bytes, and the SHA-256 of all of them or, unless `full`, of those that a safetensors file begins with:
    the length of its header and the header, which has every tensor's name, dtype, shape and place, but no value."""
    return [(path.name, path.stat().st_size, sha256(path, None if full else header(path))) for path in found.files]


def header(path: Path) -> int:
    """Bytes of a safetensors file before its values."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def sha256(path: Path, limit: int | None = None) -> str:
    """Of a file, or of its first `limit` bytes; the digits that are shown. Raises `UserError` if it cannot be read."""
    digest, left = hashlib.sha256(), limit
    try:
        with path.open("rb") as file:
            while part := file.read(BLOCK if left is None else min(BLOCK, left)):
                digest.update(part)
                left = None if left is None else left - len(part)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()[:SHOWN]
