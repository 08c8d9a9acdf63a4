"""The table of presets: published decoders and ours, by name.

| name           | loop   | drafter    | coupling | source                                                          |
|----------------|--------|------------|----------|-----------------------------------------------------------------|
| `ar`           |        |            |          | ancestral sampling, the oracle                                  |
| `sjd`          | raster | random     | resample | arXiv 2410.01699, W = 16 as released                            |
| `scd`          | raster | random     | maximal  | arXiv 2510.24211, W = 64 as in its main table                   |
| `scd-gumbel`   | raster | random     | gumbel   | arXiv 2510.24211, W = 64                                        |
| `sjd-pac`      | tree   | random     | maximal  | arXiv 2603.18599, L = 64, K = D = 3 as released                 |
| `gsd`          | raster | random     | resample | arXiv 2508.07747: SJD with groups of 14, delta 0.15, no radius  |
| `pjd`          | pjd    | random     | resample | arXiv 2606.05703: rows side by side, W = 8, c = a quarter       |
| `mtp`          | mtp    | heads      |          | arXiv 2404.19737: k = 5 along the row, redrafted in every pass  |
| `ssd`          | rows   | heads      |          | arXiv 2606.20543: k_v = 1, r = 2                                |
| `ssd2`         | rows   | heads      |          | k_v = 2, staged: 2 rounds on both rows, 2 more on the second    |
| `ssd-exact`    | raster | spatial    | match    | ours: the image `ar` gives; W = 64, on a CPU 8; a history       |
| `ssd-tree`     | raster | spatial    | match    | ours: the same, W = 41 and 23 alternatives to drafts beside it  |
| `ssd-wave`     | wave   | spatial    |          | ours: commits tokens along a slanted front, not row by row      |
| `jacobi-match` | raster | random     | match    | ours: as `ssd-exact`, no heads                                  |
| `jacobi-above` | raster | above      | match    | ours: as `ssd-exact`, no heads                                  |
| `jacobi-wave`  | wave   | above      |          | ours: as `ssd-wave`, no heads                                   |
| `flash`        | flash  | a branch   |          | arXiv 2605.09430: one anti-diagonal of the grid per pass        |
"""

from ssd_jax.decode.acceptance import Group
from ssd_jax.decode.ar import AR
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.flash import Flash
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.pjd import PJD
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.tree import Tree
from ssd_jax.decode.wave import Wave
from ssd_jax.errors import UserError, require_one_of
from ssd_jax.sequence.layout import Grid

PRESETS: dict[str, Decoder] = {
    "ar": AR(),
    "sjd": Raster(window=16, drafter="random", coupling="resample"),
    "scd": Raster(window=64, drafter="random", coupling="maximal"),
    "scd-gumbel": Raster(window=64, drafter="random", coupling="gumbel"),
    "sjd-pac": Tree(),
    "gsd": Raster(window=16, drafter="random", coupling="resample", acceptance="grouped", group=Group()),
    "pjd": PJD(),
    "mtp": MTP(drafts=5),
    "ssd": SSD(rounds=2),
    "ssd2": SSD(rounds=2, extra_rounds=2, rows=2, schedule="staged"),
    "ssd-exact": Raster(drafter="spatial", coupling="match", history=8),
    "ssd-tree": Raster(window=41, drafter="spatial", coupling="match", history=8, alternatives=9),
    "ssd-wave": Wave(),
    "jacobi-match": Raster(drafter="random", coupling="match", history=8),
    "jacobi-above": Raster(drafter="above", coupling="match", history=8),
    "jacobi-wave": Wave(drafter="above"),
    "flash": Flash(),
}
"""Name -> decoder. Decoders are frozen dataclasses, so they can be static arguments of the jitted program."""


def find_decoder(decoder: object) -> Decoder:
    """The decoder of a name, or the decoder itself; for anything else raises a `UserError` that lists the names."""
    if isinstance(decoder, Decoder):
        return decoder
    require_one_of("decoder", decoder, tuple(PRESETS))
    assert isinstance(decoder, str)
    return PRESETS[decoder]


def require_heads(decoder: Decoder, horizontal: int, vertical: int, branch_layers: int = 0) -> None:
    """Raises `UserError` if the decoder needs more draft heads than there are, or a vertical branch and there is none;
    0 stands for none."""
    if decoder.runs_with(horizontal, vertical, branch_layers):
        return
    needed = decoder.heads
    name = next((name for name, preset in PRESETS.items() if preset == decoder), type(decoder).__name__)
    without = ", ".join(name for name, preset in PRESETS.items() if preset.runs_with(0, 0))
    if decoder.runs_with(horizontal, vertical, 1):
        raise UserError(
            f"The decoder {name} needs a vertical branch, and there is none; give one with --branch (in Python, "
            f"branch=), or choose one that needs nothing: {without}."
        )
    raise UserError(
        f"The decoder {name} needs draft heads (at least {needed[0]} to the right and {needed[1]} down, here are "
        f"{horizontal} and {vertical}); train them, or choose one that needs none: {without}."
    )


def require_fits(decoder: Decoder, grid: Grid) -> None:
    """Raises `UserError` if the decoder's options exceed an image's tokens, grid rows or passes.

    Presets are made for larger images; the loops clip them.
    """
    if decoder not in PRESETS.values():
        decoder.check(grid)
