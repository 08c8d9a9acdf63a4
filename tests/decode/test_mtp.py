"""Multi-token prediction: what every pass drafts, from which state, and what it commits; the stub's calls are recorded.

That it follows the distribution is in test_lossless.py, its passes are in test_cost.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub

from ssd_jax.decode.mtp import MTP
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

GRID, IMAGES = Grid(3, 4), 6


@pytest.fixture(scope="module", params=[(3, 5), (5, 2)], ids=["more heads than drafts", "fewer heads than drafts"])
def recorded(request):
    """k, the verifier, (draft, verify) calls in order, the images' states, and what came out."""
    (drafts, heads), k = request.param, min(request.param)
    keys, calls = image_keys(jnp.zeros(IMAGES, jnp.int32), jnp.arange(IMAGES)), []
    verifier, cache, start = stub.stub(IMAGES, GRID, keys, sharpness=0.3, horizontal=heads)

    def note(name: str, *arrays):
        jax.debug.callback(lambda *x: calls.append((name, *map(np.asarray, x))), *arrays, ordered=True)

    def verify(cache, codes, positions):
        note("verify", codes, positions)
        return verifier.verify(cache, codes, positions)

    def draft(hidden, codes, columns, offsets):
        assert offsets == tuple((0, right) for right in range(1, k + 1))
        log_q = verifier.draft(hidden, codes, columns, offsets)
        note("draft", hidden, codes, columns, log_q)
        return log_q

    spied = stub.changed(verifier, verify=verify, draft=draft)
    out = jax.jit(lambda cache: MTP(drafts).run(spied, cache, start, GRID))(cache)
    jax.effects_barrier()
    # The states that predict the tokens, when all of an image is seen at once.
    whole = jnp.broadcast_to(jnp.arange(GRID.size, dtype=jnp.int32), out.tokens.shape)
    states = jnp.concatenate([start, verifier.verify(cache, out.tokens, whole)[0][:, :-1]], axis=1)
    return k, verifier, calls, np.asarray(states), out


def passes_of(calls):
    """(draft, verify) of every pass; there is nothing else."""
    assert [name for name, *_ in calls] == ["draft", "verify"] * (len(calls) // 2)
    return zip((arrays for _, *arrays in calls[::2]), (arrays for _, *arrays in calls[1::2]), strict=True)


def test_every_pass_drafts_from_the_last_committed_token(recorded):
    k, _, calls, states, out = recorded
    tokens, trace = np.asarray(out.tokens), np.asarray(out.trace)
    assert len(calls) // 2 == out.passes.max() - 1
    for number, ((hidden, codes, columns, _), _) in enumerate(passes_of(calls), start=2):
        for image in np.flatnonzero(np.asarray(out.passes) >= number):
            last = int((trace[image] < number).sum()) - 1
            assert codes[image].tolist() == [tokens[image, last]]
            assert columns[image].tolist() == [last % GRID.cols]
            np.testing.assert_allclose(hidden[image, 0], states[image, last], atol=1e-5)


def test_a_window_is_the_last_committed_token_and_head_drafts_alone(recorded):
    k, verifier, calls, _, out = recorded
    trace, again = np.asarray(out.trace), 0
    for number, ((_, source, _, log_q), (codes, positions)) in enumerate(passes_of(calls), start=2):
        assert codes.shape == (IMAGES, k + 1)
        drafted = choose(jnp.asarray(log_q)[:, :, 0], verifier.noise(jnp.asarray(positions[:, 1:])))
        for image in np.flatnonzero(np.asarray(out.passes) >= number):
            last = int((trace[image] < number).sum()) - 1
            assert positions[image].tolist() == list(range(last, last + k + 1))
            assert codes[image].tolist() == [source[image, 0], *np.asarray(drafted)[image].tolist()]
            again += int((trace[image] == number).sum()) < k  # some drafts were thrown away
    assert again


def test_a_prefix_of_the_drafts_and_one_token_are_committed(recorded):
    k, _, calls, _, out = recorded
    tokens, trace, counts = np.asarray(out.tokens), np.asarray(out.trace), set()
    for number, (_, (codes, positions)) in enumerate(passes_of(calls), start=2):
        for image in np.flatnonzero(np.asarray(out.passes) >= number):
            new = np.flatnonzero(trace[image] == number)
            first = positions[image, 0] + 1
            assert new.tolist() == list(range(first, first + len(new)))
            assert codes[image, 1 : len(new)].tolist() == tokens[image, new[:-1]].tolist()
            counts.add(len(new))
    assert counts == set(range(1, k + 2))
