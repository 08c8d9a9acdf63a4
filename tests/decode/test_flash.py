"""FlashAR's loop against slow full forwards, one for every diagonal, with the mask written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ssd_jax.decode.flash import Flash
from ssd_jax.errors import UserError
from ssd_jax.models.branch import VerticalBranch
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling.noise import gumbel_noise, image_keys
from ssd_jax.sequence.diagonals import diagonals
from ssd_jax.sequence.layout import Grid

ROW_ENDS = toy.Toy(toy.config(row_end=1))


def visible(grid: Grid, pitch: int, prompt: np.ndarray) -> np.ndarray:
    """What every slot sees, by loops; bool [S + R * pitch, S + R * pitch]."""
    S, slots = len(prompt), len(prompt) + grid.rows * pitch
    out = np.eye(slots, dtype=bool)
    for own in range(S):
        for key in range(own + 1):
            out[own, key] |= prompt[key]
    tokens = [(row, col) for row in range(grid.rows) for col in range(grid.cols)]
    for row, col in tokens:
        own = S + row * pitch + col
        out[own, :S] = prompt
        for above, beside in tokens:
            out[own, S + above * pitch + beside] |= above + beside <= row + col
    return out


@partial(jax.jit, static_argnames=("config", "grid", "pitch"))
def states(config: toy.Toy, grid: Grid, pitch: int, ids, mask, seen, tokens):
    """States of the backbone, normed, and of the branch, and both logits, of all slots; row ends hold nothing."""
    model, params = config.branched(), config.params
    backbone, branch = Transformer(config.config), VerticalBranch(config.config, toy.BRANCH)
    S, slots = ids.shape[1], ids.shape[1] + grid.rows * pitch
    codes = backbone.apply(params, tokens, method="embed_codes").reshape(-1, *(grid.rows, grid.cols), 24)
    codes = jnp.pad(codes, ((0, 0), (0, 0), (0, pitch - grid.cols), (0, 0))).reshape(len(tokens), -1, 24)
    x = jnp.concatenate([backbone.apply(params, ids, method="embed"), codes], axis=1)
    rotary = jnp.maximum(jnp.arange(slots)[None] - (S - mask.sum(axis=1))[:, None], 0)
    h, before, _ = backbone.apply(params, x, rotary, seen, None, None, toy.BRANCH.layers, method="forked")
    image = seen & jnp.asarray((np.arange(slots) >= S) | np.eye(slots, dtype=bool))[None]
    v, _ = branch.apply(model.branch.params, before, rotary, image, method="hidden")
    found = backbone.apply(params, h, method="normed"), v, backbone.apply(params, h, method="logits")
    return *found, branch.apply(model.branch.params, v, method="logits")


def slow(config: toy.Toy, grid: Grid, images: int, cfg_scale: float | None, seed: int = 0) -> np.ndarray:
    """Images of `flash`, with a full forward for every diagonal; int32 [B, R*C]."""
    ids, mask = toy.prompts(images, cfg_scale is not None)
    S, pitch, gate = (
        ids.shape[1],
        grid.cols + (config.config.row_end_id >= 0),
        config.branched().branch.params["params"],
    )
    scale = np.asarray(gate["final_norm"]["scale"])
    keys = image_keys(jnp.full(images, seed), jnp.arange(images))
    everywhere = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32), (images, grid.size))
    noise = np.asarray(gumbel_noise(keys, everywhere, config.config.visual_size))
    tokens = np.zeros((images, grid.size), np.int32)
    seen = jnp.asarray([visible(grid, pitch, row) for row in np.asarray(mask)])
    for number in range(grid.rows + grid.cols - 1):
        rows = jnp.asarray(np.concatenate([tokens] * (1 + (cfg_scale is not None))))
        h, v, right, below = map(np.asarray, states(config, grid, pitch, ids, mask, seen, rows))
        for position in range(grid.size):
            row, col = divmod(position, grid.cols)
            if row + col != number:
                continue
            left, above = S + row * pitch + col - 1, S + (row - 1) * pitch + col
            if row == 0:
                logits = right[:, left]
            elif col == 0:
                logits = below[:, above]
            else:
                up = v[:, above]
                up = up / np.sqrt((up**2).mean(-1, keepdims=True) + config.config.norm_eps) * scale
                both = np.concatenate([h[:, left], up], axis=-1) @ np.asarray(gate["gate_in"]).T
                score = both / (1 + np.exp(-both)) @ np.asarray(gate["gate_out"]).T + np.asarray(gate["gate_bias"])
                share = 1 / (1 + np.exp(-score))
                logits = share * right[:, left] + (1 - share) * below[:, above]
            if cfg_scale is not None:
                logits = logits[images:] + cfg_scale * (logits[:images] - logits[images:])
            tokens[:, position] = np.argmax(np.asarray(jax.nn.log_softmax(logits)) + noise[:, position], axis=-1)
    return tokens


@pytest.mark.parametrize(
    ("config", "grid", "cfg_scale"),
    [
        pytest.param(toy.TOY, Grid(4, 4), 2.0, id="square, guided"),
        pytest.param(toy.TOY, Grid(3, 5), None, id="wide"),
        pytest.param(toy.TOY, Grid(5, 3), 2.0, id="tall, guided"),
        pytest.param(ROW_ENDS, Grid(4, 4), None, id="square, row ends"),
        pytest.param(ROW_ENDS, Grid(3, 5), 2.0, id="wide, row ends, guided"),
        pytest.param(ROW_ENDS, Grid(5, 3), 2.0, id="tall, row ends, guided"),
    ],
)
def test_flash_equals_a_slow_loop_over_full_forwards(config, grid, cfg_scale):
    """And with a pass per diagonal."""
    out = toy.decode(config, "flash", grid, images=3, cfg_scale=cfg_scale)
    np.testing.assert_array_equal(out.tokens, slow(config, grid, 3, cfg_scale))
    row, col = np.divmod(np.arange(grid.size), grid.cols)
    np.testing.assert_array_equal(out.passes, grid.rows + grid.cols - 1)
    np.testing.assert_array_equal(out.trace, np.broadcast_to(1 + row + col, out.trace.shape))
    assert sum(stretch.passes for stretch in Flash().stretches(grid, 0)) == grid.rows + grid.cols - 1


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 4), Grid(4, 1), Grid(3, 5), Grid(5, 3)], ids=str)
def test_diagonals_hold_every_position_once_and_know_its_neighbours(grid):
    positions, left, above = diagonals(grid)
    assert sorted(positions[positions < grid.size]) == list(range(grid.size))
    for number, places in enumerate(positions):
        for place, position in enumerate(places):
            if position == grid.size:
                continue
            row, col = divmod(int(position), grid.cols)
            assert row + col == number
            if col:
                assert positions[number - 1, left[number, place]] == position - 1
            if row:
                assert positions[number - 1, above[number, place]] == position - grid.cols


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 5)], ids=str)
def test_one_row_is_the_image_of_ar(grid):
    """Each token is then predicted from everything before it, by the backbone alone."""
    expected = toy.decode(toy.TOY, "ar", grid)
    np.testing.assert_array_equal(toy.decode(toy.TOY, "flash", grid).tokens, expected.tokens)


def test_an_image_does_not_depend_on_its_neighbours():
    grid = Grid(4, 4)
    together = toy.decode(toy.TOY, "flash", grid, images=3).tokens
    alone = toy.decode(toy.TOY, "flash", grid, images=1, numbers=[2], which=0).tokens
    np.testing.assert_array_equal(alone[0], together[2])


@pytest.mark.parametrize(
    ("config", "grid", "numbers"),
    [(toy.TOY, Grid(4, 4), (1,)), (ROW_ENDS, Grid(3, 5), (4, 14))],
    ids=["one", "row ends, some and all"],
)
def test_after_n_rounds_the_first_n_tokens_and_one_are_those_of_ar(config, grid, numbers):
    expected, drawn = (np.asarray(toy.decode(config, name, grid, images=3).tokens) for name in ("ar", "flash"))
    assert (expected != drawn).any(axis=1).all()
    for rounds in numbers:
        out = toy.decode(config, Flash(rounds=rounds), grid, images=3)
        passes = grid.rows + grid.cols - 1 + rounds
        np.testing.assert_array_equal(out.tokens[:, : rounds + 1], expected[:, : rounds + 1])
        np.testing.assert_array_equal(out.passes, passes)
        np.testing.assert_array_equal(out.trace[:, 1:], passes)
        assert sum(stretch.passes for stretch in Flash(rounds=rounds).stretches(grid, 0)) == passes


def test_rounds_are_checked():
    Flash(rounds=11).check(Grid(3, 4))
    with pytest.raises(UserError, match="12 rounds are too many for an image of 12 tokens"):
        Flash(rounds=12).check(Grid(3, 4))
    with pytest.raises(UserError, match="rounds must be"):
        Flash(rounds=-1)
