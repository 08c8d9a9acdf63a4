"""The lossless decoders follow the backbone's law: chi-square tests against the enumerated law of all pictures.

A toy with 4 codes on a 2 x 3 grid has 4^6 pictures, 3^6 of them possible under top-k 3. 24,000 samples per decoder; a
lossless one must reach p > 1e-3, a control must fall below 1e-9. Seeds are fixed, so the outcome is too. For
draws that hang together, faults that hardly show in whole pictures, see test_window_laws.py.
"""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toy import Toy, config, decode, forced

from ssd_jax.decode import accept, engine
from ssd_jax.decode.accept import COUPLINGS
from ssd_jax.decode.ar import AR
from ssd_jax.decode.drafters import DRAFTERS
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.presets import PRESETS, is_lossless
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.wave import Wave

TOY4 = Toy(config(visual=4, width=16, layers=1), sharpness=3.0)
GRID = engine.Grid(2, 3)
LAW = {"cfg_scale": 1.5, "top_k": 3, "which": 0}
SAMPLES, BATCH = 24_000, 8_000

RASTER = {
    f"{drafter}, {coupling}": Raster(window=5, drafter=drafter, coupling=coupling)
    for drafter in DRAFTERS
    for coupling in COUPLINGS
}
LOSSLESS = RASTER | {
    "ar": AR(),
    "mtp": MTP(drafts=3),
    "ssd, auto": SSD(rounds="auto"),
    "ssd, auto, two rows": SSD(rounds="auto", rows=2),
}


@cache
def exact_law() -> np.ndarray:
    """Probability of every picture, float64 [4^6], by teacher forcing; index = the codes as digits of base 4."""
    pictures = jnp.asarray(list(itertools.product(range(4), repeat=6)), jnp.int32)
    log_p, _, _ = forced(TOY4, pictures, GRID, **LAW)
    of_tokens = np.take_along_axis(np.asarray(log_p, np.float64), np.asarray(pictures)[..., None], axis=-1)[..., 0]
    law = np.exp(of_tokens.sum(axis=1))
    assert abs(law.sum() - 1.0) < 1e-4
    return law / law.sum()


def chi_square(decoder, program=engine.decode, heads="untrained") -> tuple[float, float, int]:
    """p-value, statistic and degrees of freedom of a decoder's samples; cells that expect less than 5 are pooled."""
    counts = np.zeros(4**6)
    for seed in range(SAMPLES // BATCH):
        out = decode(TOY4, decoder, GRID, images=BATCH, seed=seed, program=program, heads=heads, **LAW)
        np.add.at(counts, np.asarray(out.tokens) @ 4 ** np.arange(5, -1, -1), 1)
    expected = exact_law() * SAMPLES
    if counts[expected == 0].any():  # impossible pictures were drawn
        return 0.0, np.inf, 0
    big = expected >= 5
    counts, expected = np.append(counts[big], counts[~big].sum()), np.append(expected[big], expected[~big].sum())
    statistic = float(((counts - expected) ** 2 / expected).sum())
    print(f"{decoder}: chi-square {statistic:.0f} on {len(counts) - 1} degrees of freedom")
    return float(stats.chi2.sf(statistic, len(counts) - 1)), statistic, len(counts) - 1


def test_whatever_is_called_lossless_is_tried():
    """By the options that decide it; a new drafter or coupling is in `RASTER` by itself, a new loop must be added."""

    def kind(decoder) -> tuple:
        return type(decoder), *(getattr(decoder, option, None) for option in ("drafter", "coupling", "rounds"))

    assert all(is_lossless(decoder) for decoder in LOSSLESS.values())
    tried = {kind(decoder) for decoder in LOSSLESS.values()}
    assert {kind(decoder) for decoder in PRESETS.values() if is_lossless(decoder)} <= tried
    assert {type(decoder) for decoder in LOSSLESS.values()} | {Wave} == set(engine.LOOPS)
    assert not is_lossless(Wave())


@pytest.mark.parametrize("name", LOSSLESS)
def test_follows_the_law(name):
    assert chi_square(LOSSLESS[name])[0] > 1e-3


@pytest.mark.parametrize("name", ["spatial, maximal", "mtp", "ssd, auto"])
def test_heads_with_context_follow_the_law(name):
    """q depends on sources that are drafts still; it is stored as the law that the draft was drawn from."""
    assert chi_square(LOSSLESS[name], heads="context")[0] > 1e-3


CONTROLS = ["random, resample", "left, maximal", "above, gumbel", "horizontal, maximal", "spatial, resample", "mtp"]
CONTROLS += ["ssd, auto", "ssd, auto, two rows"]
"""Every drafter and every coupling with a residual."""


def test_a_fixed_number_of_rounds_does_not():
    assert chi_square(SSD(rounds=1))[0] < 1e-9


@pytest.mark.parametrize("name", CONTROLS)
def test_a_plain_draw_instead_of_the_residual_does_not(name, monkeypatch):
    monkeypatch.setattr(accept, "residual", lambda log_p, log_q: log_p)
    assert chi_square(LOSSLESS[name], fresh_program())[0] < 1e-9


def fresh_program():
    """`engine.decode` traced anew, with whatever is patched."""
    return jax.jit(
        partial(engine.decode.__wrapped__),
        static_argnames=("config", "decoder", "grid", "guided", "heads"),
        donate_argnames=("cache",),
    )
