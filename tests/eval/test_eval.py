"""Retrieval, means, the pinned reader, the feature network, likelihood."""

import hashlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import UserError
from ssd_jax.eval import features as network
from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.likelihood import token_nll
from ssd_jax.eval.retrieval import retrieval
from ssd_jax.eval.unpickle import read_checkpoint
from ssd_jax.prompts import pad_left

# -- retrieval, means


def test_retrieval_counts_hits():
    gallery = np.eye(4)
    identities = ["a", "b", "c", "c"]
    queries = np.array([[2.0, 1.0, 0, 0], [0, 3.0, 1.0, 0], [0, 0.1, 0.2, 1.0], [1.0, 0.5, 0, 0]])
    found = retrieval(queries, ["a", "c", "c", "c"], gallery, identities, at=(1, 2))
    assert (found[1].value, found[2].value) == (0.5, 0.75)
    assert 0 < found[1].low < 0.5 < found[1].high < 1


def test_estimate_of_a_mean():
    found = Estimate.mean(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.value == 2.5
    assert found.high - 2.5 == pytest.approx(1.96 * np.std([1, 2, 3, 4], ddof=1) / 2)
    assert np.isnan(Estimate.mean(np.array([1.0])).low)


def test_a_mean_counts_prompts_not_pictures():
    once, more = (
        Estimate.mean(np.array([1.0, 2.0, 3.0])),
        Estimate.mean(np.array([1.0, 2, 2, 3]), np.array([4, 7, 7, 9])),
    )
    assert more == once


def test_retrieval_of_nothing_is_refused():
    with pytest.raises(UserError):
        retrieval(np.zeros((0, 3)), [], np.eye(3), ["a", "b", "c"])


# -- the reader of the one pickle


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_reader_refuses_another_file_before_it_reads_it(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="sha256"):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_reader_knows_no_other_names(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    data = pickle.dumps(Evil())
    path.write_bytes(data)
    with pytest.raises(UserError, match="builtins.print, which is refused"):
        read_checkpoint(path, sha256=hashlib.sha256(data).hexdigest())
    assert capsys.readouterr().out == ""


def test_reader_tells_of_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "absent.pth")


# -- the feature network


def slow_depthwise(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's SAME padding, one number at a time."""
    n, k = x.shape[1], weights.shape[0]
    out = -(-n // stride)
    before = max((out - 1) * stride + k - n, 0) // 2
    y = np.zeros((len(x), out, out, x.shape[3]))
    for b, i, j, c in np.ndindex(y.shape):
        total = bias[c]
        for di in range(k):
            for dj in range(k):
                row, col = i * stride + di - before, j * stride + dj - before
                if 0 <= row < n and 0 <= col < n:
                    total += x[b, row, col, c] * weights[di, dj, 0, c]
        y[b, i, j, c] = total
    return y


@pytest.mark.parametrize(("size", "kernel", "stride"), [(6, 3, 1), (6, 3, 2), (7, 5, 2), (5, 5, 1)])
def test_block_equals_a_slow_reference(size, kernel, stride):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, size, size, 3))
    block = {
        "expand": (rng.normal(size=(1, 1, 3, 6)), rng.normal(size=6)),
        "depthwise": (rng.normal(size=(kernel, kernel, 1, 6)), rng.normal(size=6)),
        "project": (rng.normal(size=(1, 1, 6, 3)), rng.normal(size=3)),
    }
    y = np.clip(x @ block["expand"][0][0, 0] + block["expand"][1], 0, 6)
    y = np.clip(slow_depthwise(y, *block["depthwise"], stride), 0, 6)
    y = y @ block["project"][0][0, 0] + block["project"][1]
    expected = x + y if stride == 1 else y
    block, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (block, x))
    np.testing.assert_allclose(network.inverted_residual(block, x, stride), expected, rtol=1e-4, atol=1e-4)


def test_features_do_not_depend_on_the_batch():
    if not network.available():
        pytest.skip("the extra [eval] is not installed")
    params = network.load_network()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 4_600_000
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = network.features(params, images, size=32, batch=2)
    assert found.shape == (3, network.WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(network.features(params, images[2:], size=32, batch=2)[0], found[2], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_features_without_the_package(monkeypatch):
    monkeypatch.setattr(network, "PACKAGE", "there_is_no_such_package")
    assert not network.available()
    with pytest.raises(UserError, match="eval"):
        network.load_network()


# -- likelihood


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_token_nll_equals_teacher_forcing(pipe, scale):
    prompts = ["red apple", "dog", "green heart"]
    codes = np.random.default_rng(0).integers(0, 64, (3, 4, 4))
    found = token_nll(pipe, prompts, codes, cfg_scale=scale, batch=2)
    assert found.shape == (3, 16)

    def logits(texts):
        ids, mask = pad_left([pipe.prompts.frame(text) for text in texts], pipe.config.pad_id)
        return np.asarray(pipe.visual_logits(ids, codes.reshape(3, -1), prompt_mask=mask), np.float64)

    conditional, unconditional = logits(prompts), logits([""] * 3)
    mixed = unconditional + scale * (conditional - unconditional)
    log_p = (
        mixed
        - np.log(np.exp(mixed - mixed.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - mixed.max(-1, keepdims=True)
    )
    expected = -np.take_along_axis(log_p, codes.reshape(3, 16, 1), -1)[..., 0]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
