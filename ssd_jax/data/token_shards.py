"""Stores the codes of many images on disk in shards, so that interrupted work continues after the last shard.

<folder>/manifest.json               what the codes were made of and with
<folder>/tokens-00000.safetensors    codes int32 [n, R, C], prompts int32 [n]
"""

from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.files import check_origin
from ssd_jax.parallel.processes import of_first, together
from ssd_jax.sequence.layout import Grid
from ssd_jax.weights.export import write_tensors
from ssd_jax.weights.store import opened

FORMAT = "ssd_jax-tokens-1"


class TokenShards:
    """Image i has prompt `prompts[i]`; shard s has images s*size up to (s+1)*size. Shards are written atomically.

    Args:
        folder: created if absent.
        prompts: int32 [N], the prompt of every image, as an index into the list that the manifest's digest identifies.
        grid: R and C.
        codes: V, the number of codes.
        size: images per shard.
        made_with: JSON that identifies model, prompts or images, and options.
    Raises:
        UserError: the folder has codes that were made differently, or cannot be written to.
    """

    def __init__(self, folder: Path, prompts: np.ndarray, grid: Grid, codes: int, size: int, made_with: dict[str, Any]):
        self.folder, self.prompts, self.grid, self.codes, self.size = Path(folder), prompts, grid, codes, size
        self.manifest = {
            "format": FORMAT,
            **made_with,
            "pictures": len(prompts),
            "pictures_per_file": size,
            "grid": [grid.rows, grid.cols],
        }

        def claim() -> None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                check_origin(self.folder / "manifest.json", self.manifest, "tokens made", "config.data")
            except OSError as error:
                raise UserError(f"The folder {self.folder} cannot be written to: {error.strerror}.") from None

        together("tokens: manifest", claim)

    def path(self, shard: int) -> Path:
        """Path of a shard."""
        return self.folder / f"tokens-{shard:05d}.safetensors"

    def pictures(self, shard: int) -> range:
        """Indices of a shard's images."""
        return range(shard * self.size, min((shard + 1) * self.size, len(self.prompts)))

    def missing(self) -> list[int]:
        """Missing shards, in order, as the first process sees them; all processes must call it together. Others may see
        an older state of a shared folder, and would then generate other images."""
        count = -(-len(self.prompts) // self.size)
        absent = np.array([not self.path(shard).exists() for shard in range(count)])
        return np.flatnonzero(of_first(absent)).tolist()

    def write(self, shard: int, codes: np.ndarray) -> None:
        """Writes the codes of a shard, int32 [n, R, C]."""
        write_tensors(self.path(shard), {"codes": codes, "prompts": self._prompts(shard)}, np.int32)

    def read(self) -> np.ndarray:
        """The codes of all images, int32 [N, R*C].

        Raises:
            UserError: a shard is missing, damaged, or has other images than expected.
        """
        codes = np.empty((len(self.prompts), self.grid.size), np.int32)
        for shard in range(-(-len(self.prompts) // self.size)):
            pictures = self.pictures(shard)
            codes[pictures.start : pictures.stop] = self._read(shard).reshape(len(pictures), -1)
        return codes

    def _read(self, shard: int) -> np.ndarray:
        path, wanted = self.path(shard), (len(self.pictures(shard)), self.grid.rows, self.grid.cols)
        tensors = opened(path).tensors
        if tensors.keys() == {"codes", "prompts"} and tuple(tensors["codes"].shape) == wanted:
            codes, prompts = (tensors[name][(slice(None),) * len(tensors[name].shape)] for name in ("codes", "prompts"))
            inside = codes.dtype == np.int32 and codes.min() >= 0 and codes.max() < self.codes
            if inside and np.array_equal(prompts, self._prompts(shard)):
                return codes
        raise UserError(f"{path} does not hold the images it should; remove it, and they are made again.")

    def _prompts(self, shard: int) -> np.ndarray:
        pictures = self.pictures(shard)
        return self.prompts[pictures.start : pictures.stop].astype(np.int32)
