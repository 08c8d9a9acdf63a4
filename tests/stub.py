"""A model without a transformer: cheap to compile, and every way of using a stale cache shows.

Two "layers" of exponentially decaying sums over what the mask lets a position see. The cache holds what attention
would read: the input embedding, and a second state that depends on the context at the time of writing. It also counts
the verifier calls.
"""

from copy import copy
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.decode.presets import find_decoder
from ssd_jax.decode.state import Decoded
from ssd_jax.decode.verifier import Verifier
from ssd_jax.sampling.noise import gumbel, image_keys, position_keys
from ssd_jax.sequence.layout import Grid
from ssd_jax.sequence.masks import causal, row, row_causal

V, D = 11, 8


@flax.struct.dataclass
class StubCache:
    """first, second: float32 [B, R*C, D]; calls: int32 []."""

    first: jax.Array
    second: jax.Array
    calls: jax.Array


class Stub(Verifier):
    """`images` images, no row ends, heads that see one state."""

    vertical = 2

    def __init__(self, images: int, grid: Grid, keys: jax.Array, sharpness: float, horizontal: int, codes: int):
        self.images, self.grid, self.image_keys, self.codes = images, grid, keys, codes
        self.horizontal = horizontal
        self.embedding = jax.random.normal(jax.random.key(10), (codes, D))
        self.head = jax.random.normal(jax.random.key(11), (D, codes)) * sharpness
        self.turn = jax.random.normal(jax.random.key(12), (D, D)) * D**-0.5

    def verify(self, cache, codes, positions, committed=None, ends=None, beside=None):
        del ends  # no row ends
        grid, starts = self.grid, jnp.zeros((self.images,), jnp.int32)
        if committed is None:
            seen = causal(positions, starts, grid.size)
        else:
            seen = row(positions, starts, committed, 0, grid.cols, grid.size)
        return self._pass(cache, codes, positions, seen, beside)

    def verify_rows(self, cache, codes, positions, leads, counts):
        grid, starts = self.grid, jnp.zeros((self.images,), jnp.int32)
        seen = row_causal(positions, starts, counts, 0, grid.cols, grid.cols, grid.size)
        return self._pass(cache, codes, positions, seen)

    def _pass(self, cache, codes, positions, seen, beside=None):
        grid = self.grid
        away = jnp.abs(positions[:, :, None] - jnp.arange(grid.size)[None, None]).astype(jnp.float32)
        weights = jnp.where(seen, 0.6**away, 0.0)
        rows = jnp.arange(self.images)[:, None]
        e = self.embedding[codes]
        first = cache.first.at[rows, positions].set(e, mode="drop")
        state = jnp.tanh(e + jnp.einsum("bwt,btd->bwd", weights, first) @ self.turn)
        second = cache.second.at[rows, positions].set(state, mode="drop")
        hidden = jnp.einsum("bwt,btd->bwd", weights, second)
        if beside is not None:
            before = beside.positions if beside.before is None else beside.before
            away = (beside.positions[:, :, None] - jnp.arange(grid.size)[None, None]).astype(jnp.float32)
            weights = jnp.where(before[:, :, None] > jnp.arange(grid.size)[None, None], 0.6**away, 0.0)
            sees = np.eye(before.shape[1]) if beside.sees is None else beside.sees
            apart = (beside.positions[:, :, None] - beside.positions[:, None]).astype(jnp.float32)
            among = jnp.where(sees, 0.6**apart, 0.0)
            own = self.embedding[beside.codes]
            state = jnp.einsum("bef,bfd->bed", among, own) + jnp.einsum("bet,btd->bed", weights, first)
            state = jnp.tanh(own + state @ self.turn)
            state = jnp.einsum("bef,bfd->bed", among, state) + jnp.einsum("bet,btd->bed", weights, second)
            hidden = jnp.concatenate([hidden, state], axis=1)
        return hidden, StubCache(first, second, cache.calls + 1)

    def log_p(self, hidden):
        return jax.nn.log_softmax(jnp.tanh(hidden) @ self.head, axis=-1)

    def noise(self, positions):
        return gumbel(self.keys(positions), self.codes)

    def keys(self, positions):
        return position_keys(self.image_keys, positions)

    def embed(self, codes):
        return self.embedding[codes]

    def draft(self, hidden, codes, columns, offsets, count=None):
        out = 0.6 * hidden + jnp.tanh(self.embedding[codes])
        return jnp.stack([self.log_p(out * 0.9 ** (down + right)) for down, right in offsets], axis=1)[:, :, :count]


def stub(images: int, grid: Grid, keys: jax.Array, sharpness: float = 0.7, horizontal: int = 5, codes: int = V):
    """(verifier, empty cache, hidden state of the prefill)."""
    empty = jnp.zeros((images, grid.size, D))
    verifier = Stub(images, grid, keys, sharpness, horizontal, codes)
    return verifier, StubCache(empty, empty, jnp.int32(0)), jnp.ones((images, 1, D))


def changed(verifier: Verifier, **changes) -> Verifier:
    """The verifier with other attributes, or functions in place of its methods."""
    other = copy(verifier)
    vars(other).update(changes)
    return other


@partial(jax.jit, static_argnames=("decoder", "grid", "codes"))
def _decode(numbers, seed, decoder, grid, sharpness, codes):
    images = numbers.shape[0]
    keys = image_keys(jnp.broadcast_to(seed, (images,)), numbers)
    verifier, cache, hidden = stub(images, grid, keys, sharpness, codes=codes)
    return decoder.run(verifier, cache, hidden, grid)


def decode(decoder, grid: Grid, images=4, seed=0, numbers=None, sharpness=0.7, codes=V, program=_decode):
    """Decodes images of the stub; its cache counts the calls."""
    numbers = jnp.arange(images) if numbers is None else jnp.asarray(numbers)
    return program(numbers, jnp.int32(seed), find_decoder(decoder), grid, jnp.float32(sharpness), codes)


def fresh_program():
    """A `program` for `decode` that is traced anew, with whatever is patched."""
    return jax.jit(partial(_decode.__wrapped__), static_argnames=("decoder", "grid", "codes"))


@partial(jax.jit, static_argnames=("grid", "codes"))
def forced(tokens: jax.Array, grid: Grid, sharpness, codes: int) -> jax.Array:
    """log p of given images by teacher forcing, float32 [B, R*C, codes]."""
    keys = image_keys(jnp.zeros(len(tokens), jnp.int32), tokens[:, 0])
    verifier, cache, start = stub(len(tokens), grid, keys, sharpness, codes=codes)
    positions = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32), tokens.shape)
    hidden, _ = verifier.verify(cache, tokens, positions)
    return verifier.log_p(jnp.concatenate([start, hidden[:, :-1]], axis=1))


@partial(jax.jit, static_argnames="grid")
def fresh_cache(tokens: jax.Array, grid: Grid) -> StubCache:
    """The cache after one pass over whole images."""
    verifier, cache, _ = stub(tokens.shape[0], grid, image_keys(jnp.zeros(len(tokens), jnp.int32), tokens[:, 0]))
    positions = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32), tokens.shape)
    return verifier.verify(cache, tokens, positions)[1]


def assert_counted(out: Decoded) -> None:
    """Every call of the verifier and the prefill is counted, for the image that took longest."""
    passes, trace = np.asarray(out.passes), np.asarray(out.trace)
    assert passes.max() == 1 + int(out.cache.calls)
    assert (trace >= 1).all() and (trace <= passes[:, None]).all()
    assert (trace[:, 0] == 1).all()
    tokens = np.asarray(out.tokens)
    assert tokens.shape == trace.shape and tokens.min() >= 0 and tokens.max() < V
