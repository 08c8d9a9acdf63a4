"""Teacher forcing: in windows it gives what it gives at once, and at the sizes of Emu3 it fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from toy import random_backbone, small_config

from ssd_jax.cli import entry
from ssd_jax.errors import UserError
from ssd_jax.eval.likelihood import token_nll
from ssd_jax.models import teacher_forcing
from ssd_jax.models.transformer import Transformer
from ssd_jax.parallel.mesh import device_bytes
from ssd_jax.pipeline.given_images import visual_nll
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.plan.job import job_for
from ssd_jax.sequence.layout import Grid
from ssd_jax.weights.load import read_config

CONFIGS = {
    "emoji": small_config(),
    "places": small_config(places=True),
    "row ends": small_config(architecture="chameleon", qk_norm="layer", row_end_id=4),
    "codes of their own": small_config(architecture="janus", code_width=8, head_width=16),
}
GRID = Grid(3, 4)
IDS = np.array([[0, 0, 2, 3], [2, 5, 6, 3]], np.int32)
MASK = np.array([[False, False, True, True], [True] * 4])
CODES = np.random.default_rng(0).integers(0, 32, (2, GRID.size)).astype(np.int32)


def read(config, params, window: int, attention: str = "plain", **how) -> np.ndarray:
    model = Transformer(config)
    program = jax.jit(lambda *rows: teacher_forcing.forced(model, params, *rows, GRID, window, attention, **how))
    return np.asarray(program(IDS, MASK, CODES))


@pytest.mark.parametrize("name", CONFIGS)
def test_windows_give_the_states_of_the_whole_sequence(name):
    """Windows of one token, and some that the sequence is no multiple of."""
    config = CONFIGS[name]
    params = random_backbone(config)
    whole = read(config, params, 0)
    assert whole.shape == (2, GRID.size, config.width)
    for window, attention in ((1, "plain"), (6, "fused")):
        np.testing.assert_allclose(read(config, params, window, attention), whole, atol=2e-5, err_msg=str(window))


def test_the_cache_is_as_precise_as_the_weights():
    config = CONFIGS["row ends"]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_backbone(config))
    whole, windows = (read(config, half, window) for window in (0, 5))
    exact = read(config, random_backbone(config), 0)
    rounding = abs(whole - exact).max()
    assert abs(windows - whole).max() < rounding / 4 and rounding > 1e-3


def test_what_is_read_of_a_window_is_given_the_codes_that_it_predicts():
    config = CONFIGS["row ends"]
    for window in (0, 5):
        seen = read(config, random_backbone(config), window, read=lambda hidden, codes: codes)
        np.testing.assert_array_equal(seen, CODES)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_likelihoods_and_logits_do_not_depend_on_the_window(pipe, monkeypatch, scale):
    prompts, codes = ["red apple", "dog", "green heart"], np.random.default_rng(0).integers(0, 64, (3, 4, 4))
    ids = np.tile([[2, 5, 3]], (3, 1))

    def measured() -> tuple[np.ndarray, np.ndarray]:
        return token_nll(pipe, prompts, codes, scale, batch=2), np.asarray(
            pipe.visual_logits(ids, codes.reshape(3, 16))
        )

    at_once = measured()
    monkeypatch.setattr(teacher_forcing, "LIMIT", 2000)
    assert teacher_forcing.window_of(pipe.config, Grid(4, 4), 3, 3) < 10
    for windows, whole in zip(measured(), at_once, strict=True):
        np.testing.assert_allclose(windows, whole, atol=2e-5)


def test_likelihoods_are_those_of_the_logits(pipe):
    """With guidance the unconditional prompts come behind the others."""
    ids, codes = np.array([[2, 5, 3], [2, 6, 3], [0, 2, 3], [0, 2, 3]]), np.arange(32).reshape(2, 16)
    mask = ids != 0
    conditional, without = np.split(np.asarray(pipe.visual_logits(ids, np.tile(codes, (2, 1)), prompt_mask=mask)), 2)
    guided = without + 3.0 * (conditional - without)
    for logits, given, scale in ((conditional, slice(0, 2), 1.0), (guided, slice(0, 4), 3.0)):
        expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), codes[..., None], -1)[..., 0]
        found = pipe.visual_nll(ids[given], codes, prompt_mask=mask[given], cfg_scale=scale)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_that_do_not_match_and_scales_that_are_no_numbers_are_refused(pipe):
    codes = np.zeros((2, 16), np.int32)
    with pytest.raises(UserError, match="3 rows of prompt_ids for 2 rows of codes"):
        pipe.visual_logits([[2, 5, 3]] * 3, codes)
    with pytest.raises(UserError, match="2 rows of prompt_ids for 4 rows of codes"):
        pipe.visual_nll([[2, 5, 3]] * 2, codes, cfg_scale=2.0)
    for scale, words in (
        (float("nan"), "be a finite number"),
        (-1001, "lie between -1000 and 1000"),
        ("3", "be a number"),
    ):
        with pytest.raises(UserError, match=f"cfg_scale must {words}"):
            pipe.visual_nll([[2, 5, 3]] * 4, codes, cfg_scale=scale)
        with pytest.raises(UserError, match=f"cfg_scale must {words}"):
            token_nll(pipe, ["dog"] * 2, codes.reshape(2, 4, 4), cfg_scale=scale)


@pytest.mark.parametrize("shape", [(), (16,), (1, 1, 16), (0, 16)])
def test_codes_and_ids_and_masks_of_other_shapes_are_refused(pipe, shape):
    ids, codes, other = np.full((1, 3), 2), np.zeros((1, 16), np.int32), np.zeros(shape, np.int32)
    for scale in (1.0, 3.0):
        with pytest.raises(UserError, match=r"codes must be \[B, R\*C\], none of them 0, not \["):
            pipe.visual_nll(np.tile(ids, (2, 1)), other, cfg_scale=scale)
    with pytest.raises(UserError, match=r"prompt_ids must be \[B, S\], none of them 0, not \["):
        pipe.visual_logits(other, codes)
    with pytest.raises(UserError, match=r"prompt_mask must be \[1, 3\], as prompt_ids, not \["):
        pipe.visual_logits(ids, codes, prompt_mask=other)


# -- the real sizes


def published(name: str):
    """What a config says of its models' sizes."""
    return find_models(entry.read_config(name), name)


def test_windows_of_published_sizes():
    """Whole sequences where they fit; the numbers of a window's scores and logits stay below the limit."""
    emoji, _ = read_config(ROOT / "ssd_jax" / "assets" / "emoji")
    janus, emu3 = (published(name).backbone for name in ("janus_pro", "emu3"))
    assert teacher_forcing.window_of(emoji, Grid(16, 16), 2 * 64, 20) == 20 + 255
    assert teacher_forcing.window_of(janus, Grid(24, 24), 2, 64) == 64 + 575
    window = teacher_forcing.window_of(emu3, Grid(90, 90), 2, 128)
    assert window == 126 and 2 * window * 32 * (128 + 8188) <= teacher_forcing.LIMIT
    assert teacher_forcing.window_of(emu3, Grid(90, 90), 10**6, 128) == 1


def test_a_likelihood_of_emu3_takes_less_than_2_gb_beside_weights_and_cache():
    """One image with guidance, from shapes: no weights are there, and nothing runs. A second cache would be 4 GB.

    In float32: a bfloat16 program for a CPU may hold float32 copies of the weights, which no other machine makes.
    """
    job = job_for(published("emu3"), "", None, 1, None)
    config, grid = job.config, job.grid
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), job.backbone())
    window = teacher_forcing.window_of(config, grid, 2, job.prompt)
    rows = [((2, job.prompt), jnp.int32), ((2, job.prompt), bool), ((2, grid.size), jnp.int32), ((), jnp.float32)]
    lowered = visual_nll.lower(
        params,
        *(jax.ShapeDtypeStruct(*row) for row in rows),
        config=config,
        grid=grid,
        window=window,
        attention="plain",
        guided=True,
    )
    found = lowered.compile().memory_analysis()
    cache = 2 * device_bytes(job.cache())  # it is float32 here
    assert cache < found.temp_size_in_bytes < cache + 2e9
