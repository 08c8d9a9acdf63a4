"""Learned embeddings of grid rows and columns: every way to feed a token adds those of its position."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toy import random_backbone

from ssd_jax.models.teacher_forcing import image_hidden
from ssd_jax.models.transformer import Transformer
from ssd_jax.sequence.layout import Grid


class Placed(toy.Toy):
    """A toy whose places have random embeddings."""

    @property
    def params(self):
        return random_backbone(self.config)


def placed(row_end: int = -1) -> Placed:
    return Placed(dataclasses.replace(toy.config(row_end=row_end), rows=5, cols=6, places=True))


GRID, LARGER = Grid(5, 6), Grid(7, 8)
TOYS = {"no row ends": placed(), "row ends": placed(row_end=7)}


@pytest.mark.parametrize(("name", "grid"), [("no row ends", LARGER), ("row ends", GRID)], ids=str)
@pytest.mark.parametrize("decoder", ["ssd-exact", "ssd-tree"])
def test_exact_decoders_draw_what_ar_draws(name, grid, decoder):
    oracle = toy.decode(TOYS[name], "ar", grid, images=8)
    out = toy.decode(TOYS[name], decoder, grid, images=8, heads="context")
    np.testing.assert_array_equal(out.tokens, oracle.tokens)
    assert out.passes.mean() < grid.size


@pytest.mark.parametrize(("name", "grid"), [("no row ends", GRID), ("row ends", LARGER)], ids=str)
def test_decoding_sees_what_teacher_forcing_sees(name, grid):
    model = TOYS[name]
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 24, (4, grid.size)), jnp.int32)
    log_p, _, _ = toy.forced(model, tokens, grid, cfg_scale=None)
    ids, mask = toy.prompts(4, guided=False)

    @jax.jit
    def forced(params):
        hidden = image_hidden(Transformer(model.config), params, ids, mask, tokens, grid)
        return jax.nn.log_softmax(Transformer(model.config).apply(params, hidden, method="logits"))

    np.testing.assert_allclose(log_p, forced(model.params), atol=1e-4)


@pytest.mark.parametrize(("table", "first"), [("place_rows", 12), ("place_cols", 2)])
def test_a_place_changes_what_its_tokens_predict(table, first):
    """Row 2, or column 2, gets another embedding: the first token there is the first one that says something else."""
    model = TOYS["no row ends"]
    ids, mask = toy.prompts(2, guided=False)
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 24, (2, GRID.size)), jnp.int32)

    @jax.jit
    def states(params):
        return image_hidden(Transformer(model.config), params, ids, mask, codes, GRID)

    params = model.params
    own = {**params["params"], table: params["params"][table].at[2].add(1.0)}
    changed = np.abs(states({"params": own}) - states(params)).max(axis=(0, 2)) > 1e-4
    # State i is the output of token i - 1.
    assert np.argmax(changed) == first + 1


def test_an_image_with_more_rows_or_columns_uses_the_last_ones():
    model, codes = TOYS["no row ends"], jnp.zeros((1, 9), jnp.int32)
    positions = jnp.array([[0, 5, 6, 7, 8 * 4 + 5, 8 * 5 + 5, 8 * 6 + 5, 8 * 6 + 7, 8 * 7]])
    x = Transformer(model.config).apply(model.params, codes, positions, 8, method="embed_image")
    own = model.params["params"]
    rows, cols = (0, 0, 0, 0, 4, 4, 4, 4, 4), (0, 5, 5, 5, 5, 5, 5, 5, 0)
    expected = own["embedding"][8][None] + own["place_rows"][jnp.array(rows)] + own["place_cols"][jnp.array(cols)]
    np.testing.assert_allclose(x[0], expected, atol=1e-6)
