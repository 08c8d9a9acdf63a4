"""The lossless decoders follow the backbone's distribution: chi-square tests against the enumerated one of all images.

Every combination that is called lossless, but those of the match coupling, which test_exactness compares with `ar`
token for token, draws images of the stub: 3 codes on a grid of 6, 3^6 images. A few draw those of a toy transformer,
with guidance and top-k 3 of 4 codes. 24,000 samples per decoder; a lossless one must reach p > 1e-3, a control must
fall below 1e-9. Seeds are fixed, so the outcome is too. For draws that hang together, faults that hardly show in whole
images, see test_window_laws.py.
"""

from functools import cache

import numpy as np
import pytest
import stub
import toy
from image_laws import GRID, SAMPLES, every_image, of_images, p_value

from ssd_jax.decode import acceptance, branches
from ssd_jax.decode.acceptance import COUPLINGS
from ssd_jax.decode.ar import AR
from ssd_jax.decode.base import KINDS
from ssd_jax.decode.drafting import DRAFTERS
from ssd_jax.decode.flash import Flash
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.pjd import PJD
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.tree import Tree
from ssd_jax.decode.wave import Wave
from ssd_jax.sequence.layout import Grid

TALL, BATCH = Grid(3, 2), 8_000
STUB = {"codes": 3, "sharpness": 0.8}
TOY4 = toy.Toy(toy.config(visual=4, width=16, layers=1), sharpness=3.0)
LAW = {"cfg_scale": 1.5, "top_k": 3, "which": 0}

RASTER = {
    f"{drafter}, {coupling}": Raster(window=4, drafter=drafter, coupling=coupling)
    for drafter in DRAFTERS
    for coupling in COUPLINGS
}
LOSSLESS = RASTER | {
    "ar": AR(),
    "mtp": MTP(drafts=3),
    "tree": Tree(window=9, candidates=2, depth=3),
    "tree, wide": Tree(window=8, candidates=3, depth=2),
    "ssd, auto": SSD(rounds="auto"),
    "ssd, auto, two rows": SSD(rounds="auto", rows=2),
}


@cache
def law_of_stub(grid: Grid) -> np.ndarray:
    return of_images(stub.forced(every_image(3), grid, STUB["sharpness"], 3), 3)


@cache
def law_of_toy() -> np.ndarray:
    return of_images(toy.forced(TOY4, every_image(4), GRID, **LAW)[0], 4)


def of_stub(decoder, **how) -> float:
    grid = TALL if getattr(decoder, "rows", None) == 2 else GRID  # so that there are two rows below the first
    out = stub.decode(decoder, grid, images=SAMPLES, **STUB, **how)
    return p_value(out.tokens, law_of_stub(grid), 3)


def of_toy(decoder, heads: str) -> float:
    program = toy.quick_program()
    parts = [
        toy.decode(TOY4, decoder, GRID, images=BATCH, seed=seed, heads=heads, program=program, **LAW).tokens
        for seed in range(SAMPLES // BATCH)
    ]
    return p_value(np.concatenate(parts), law_of_toy(), 4)


def test_whatever_is_called_lossless_is_tried():
    """By the options that decide it; a new drafter or coupling is in `RASTER` by itself, a new loop must be added."""

    def kind(decoder) -> tuple:
        return type(decoder), *(getattr(decoder, option, None) for option in ("drafter", "coupling", "rounds"))

    assert all(decoder.lossless for decoder in LOSSLESS.values())
    tried = {kind(decoder) for decoder in LOSSLESS.values()}
    assert {kind(decoder) for decoder in PRESETS.values() if decoder.lossless} <= tried
    assert {type(decoder) for decoder in LOSSLESS.values()} | {Wave, Flash, PJD} == set(KINDS.values())
    assert not any(kind().lossless for kind in (Wave, Flash, PJD))


@pytest.mark.parametrize("name", [name for name in LOSSLESS if not name.endswith(", match")])
def test_follows_the_law(name):
    """The match coupling draws the images of `ar`, with every drafter: test_exactness."""
    assert of_stub(LOSSLESS[name]) > 1e-3


@pytest.mark.parametrize("name", ["ar", "spatial, maximal", "mtp", "ssd, auto"])
def test_a_transformers_law_guided_and_filtered(name):
    """With heads that have a context: q depends on sources that are drafts still, and is stored as it was then. The
    tree's is in test_tree, with row ends."""
    assert of_toy(LOSSLESS[name], "context") > 1e-3


def test_a_fixed_number_of_rounds_does_not():
    assert of_stub(SSD(rounds=1)) < 1e-9


CONTROLS = ["random, resample", "left, maximal", "above, gumbel", "horizontal, maximal", "spatial, resample", "mtp"]
CONTROLS += ["ssd, auto", "ssd, auto, two rows"]
"""Every drafter and every coupling with a residual."""


@pytest.mark.parametrize("name", CONTROLS)
def test_a_plain_draw_instead_of_the_residual_does_not(name, monkeypatch):
    monkeypatch.setattr(acceptance, "residual", lambda log_p, log_q: log_p)
    assert of_stub(LOSSLESS[name], program=stub.fresh_program()) < 1e-9


def test_siblings_that_are_tried_against_all_of_p_do_not(monkeypatch):
    """They must be tried against what the draft, and the siblings before, left of p."""
    monkeypatch.setattr(branches, "residual", lambda log_p, log_q: log_p)
    assert of_stub(LOSSLESS["tree, wide"], program=stub.fresh_program()) < 1e-9


def test_nor_with_a_transformer(monkeypatch):
    monkeypatch.setattr(acceptance, "residual", lambda log_p, log_q: log_p)
    assert of_toy(LOSSLESS["mtp"], "context") < 1e-9
