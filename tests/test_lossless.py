"""The lossless decoders follow the backbone's law: chi-square tests against the enumerated law of all pictures.

A toy with 4 codes on a 2 x 3 grid has 4^6 pictures, 3^6 of them possible under top-k 3. 24,000 samples per decoder; a
lossless one must reach p > 1e-3, a control must fall below 1e-9. Seeds are fixed, so the outcome is too.
"""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toy import Toy, config, decode, forced

from ssd_jax import sampling
from ssd_jax.decode import accept, engine
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.state import Functions

TOY4 = Toy(config(visual=4, width=16, layers=1), sharpness=3.0)
GRID = engine.Grid(2, 3)
LAW = {"cfg_scale": 1.5, "top_k": 3, "which": 0}
SAMPLES, BATCH = 24_000, 8_000

LOSSLESS = {
    "ar": "ar",
    "sjd": Raster(window=4, drafter="random", coupling="resample"),
    "scd": Raster(window=5, drafter="random", coupling="maximal"),
    "scd-gumbel": Raster(window=5, drafter="random", coupling="gumbel"),
    "mtp": Raster(window=4, drafter="horizontal", coupling="resample"),
    "spatial, maximal": Raster(window=4, drafter="spatial", coupling="maximal"),
    "spatial, gumbel": Raster(window=4, drafter="spatial", coupling="gumbel"),
    "ssd, auto": SSD(rounds="auto"),
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


@pytest.mark.parametrize("name", LOSSLESS)
def test_follows_the_law(name):
    assert chi_square(LOSSLESS[name])[0] > 1e-3


@pytest.mark.parametrize("name", ["spatial, maximal", "ssd, auto"])
def test_heads_with_context_follow_the_law(name):
    """q depends on sources that are drafts still; it is stored as the law that the draft was drawn from."""
    assert chi_square(LOSSLESS[name], heads="context")[0] > 1e-3


def test_a_fixed_number_of_rounds_does_not():
    assert chi_square(SSD(rounds=1))[0] < 1e-9


@pytest.mark.parametrize("name", ["sjd", "scd", "scd-gumbel", "mtp", "ssd, auto"])
def test_a_plain_draw_instead_of_the_residual_does_not(name, monkeypatch):
    monkeypatch.setattr(accept, "residual", lambda log_p, log_q: log_p)
    assert chi_square(LOSSLESS[name], fresh_program())[0] < 1e-9


P, Q = jnp.array([0.4, 0.1, 0.5]), jnp.array([0.1, 0.6, 0.3])


def one_token(images: int = 400_000) -> float:
    """p-value of the law P for a token whose draft was drawn from Q with its keyed noise g, then settled."""
    positions = jnp.broadcast_to(jnp.arange(7, 9, dtype=jnp.int32), (images, 2))
    keys = sampling.image_keys(jnp.zeros((images,), jnp.int32), jnp.arange(images))
    functions = Functions(
        verify=None,
        log_p=None,
        embed=None,
        noise=lambda at: sampling.gumbel_noise(keys, at, 3),
        keys=lambda at: sampling.position_keys(keys, at),
    )
    log_p, log_q = (jnp.broadcast_to(jnp.log(x), (images, n, 3)) for x, n in ((P, 2), (Q, 1)))
    draft = sampling.choose(log_q, functions.noise(positions[:, :1]))
    clock = jnp.full((images,), 3, jnp.int32)
    tokens, _ = accept.settle(functions, "gumbel", accept.token_chance, draft, log_p, log_q, positions, clock)
    counts = np.bincount(np.asarray(tokens)[:, 0], minlength=3)
    print(f"shares {counts / images}, true {P}")
    return float(stats.chisquare(counts, np.asarray(P, np.float64) / float(P.sum()) * images).pvalue)


def test_one_refused_draft_is_corrected():
    assert one_token() > 1e-3


def test_reusing_the_keyed_noise_for_the_residual_is_biased(monkeypatch):
    """g_i has already chosen the draft that was refused; too small a bias for the pictures' test to see."""
    monkeypatch.setattr(accept, "fresh_keys", _fresh_unless_residual)
    assert one_token() < 1e-9


def _fresh_unless_residual(keys, tag, clock):
    return keys if tag == sampling.Tag.RESIDUAL else sampling.fresh_keys(keys, tag, clock)


def fresh_program():
    """`engine.decode` traced anew, with whatever is patched."""
    return jax.jit(
        partial(engine.decode.__wrapped__),
        static_argnames=("config", "decoder", "grid", "guided", "heads"),
        donate_argnames=("cache",),
    )
