"""The image tokenizer: rearrangement, nearest codes, straight-through gradient; the pipeline's encode and decode."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import random_vq

from ssd_jax.backbones.emu3 import VQ as EMU3
from ssd_jax.backbones.janus import VQ as JANUS
from ssd_jax.errors import UserError
from ssd_jax.models.config import VQConfig
from ssd_jax.models.vq import VQModel, depth_to_space, space_to_depth, to_float, to_uint8
from ssd_jax.pipeline import images as tokenizing
from ssd_jax.pipeline.images import at_once
from ssd_jax.training.losses import psnr

SMALL = dict(channels=8, multipliers=(1, 2), patch=2, groups=4, codebook_size=16, code_dim=4)
MIN_PSNR = 22.0
"""Decibels that the bundled tokenizer must reach on average on held-out images."""


@pytest.fixture(scope="module", params=[True, False], ids=["normalised", "euclidean"])
def vq(request):
    config = VQConfig(**SMALL, normalised=request.param)
    return config, random_vq(config)


def images(*shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape), jnp.float32)


def test_space_to_depth_puts_a_patch_into_one_place():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    deep = space_to_depth(x, 2)
    assert deep.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(deep[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_depth_to_space_is_the_inverse(patch):
    x = images(2, 8, 12, 3)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, patch), patch), x)


def test_stride_and_shapes_of_pictures_that_are_not_square(vq):
    config, params = vq
    assert config.stride == 4
    codes = jax.eval_shape(lambda: VQModel(config).apply(params, images(2, 8, 12, 3), method="encode"))
    assert codes.shape == (2, 2, 3) and codes.dtype == jnp.int32
    pixels = jax.eval_shape(lambda: VQModel(config).apply(params, jnp.zeros((2, 2, 3), jnp.int32), method="decode"))
    assert pixels.shape == (2, 8, 12, 3)


def test_lookup_finds_the_nearest_code(vq):
    config, params = vq
    z = np.random.default_rng(1).normal(size=(3, 5, 7, config.code_dim)) * 2
    vectors = np.asarray(params["params"]["codebook"], np.float64)
    if config.normalised:
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        z /= np.linalg.norm(z, axis=-1, keepdims=True)
    distances = ((z[..., None, :] - vectors) ** 2).sum(-1)
    actual = VQModel(config).apply(params, jnp.asarray(z, jnp.float32), method="lookup")
    np.testing.assert_array_equal(actual, distances.argmin(-1))
    assert len(np.unique(actual)) > 10


def test_normalised_latents_and_codes_have_length_one(vq):
    config, params = vq
    vectors = VQModel(config).apply(params, method="code_vectors")
    lengths = np.linalg.norm(vectors, axis=-1)
    if config.normalised:
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    else:
        np.testing.assert_array_equal(vectors, params["params"]["codebook"])
        assert np.ptp(lengths) > 0.1


def test_gradient_goes_straight_through_the_lookup(vq):
    """The decoder sees the codes, and the encoder gets the gradient that the decoder has there."""
    config, params = vq
    model, x = VQModel(config), images(1, 8, 8, 3)
    weights = jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)

    def decoded(z):
        return jnp.sum(model.apply(params, z, method=lambda module, z: module.decoder(z)) * weights)

    @jax.jit
    def gradients(x):
        straight = jax.grad(lambda x: jnp.sum(model.apply(params, x, 1.0)[0] * weights))(x)
        z, pull_back = jax.vjp(lambda x: model.apply(params, x, method="latents"), x)
        codes = model.apply(params, z, method="lookup")
        at_codes = jax.grad(decoded)(model.apply(params, method="code_vectors")[codes])
        return straight, pull_back(at_codes)[0]

    straight, expected = gradients(x)
    np.testing.assert_allclose(straight, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(straight).max() > 1e-3


def test_call_returns_reconstruction_codes_and_terms(vq):
    config, params = vq
    model, x = VQModel(config), images(2, 8, 8, 3)
    apply = jax.jit(lambda x, quantised: model.apply(params, x, quantised))
    rebuilt, codes, terms = apply(x, 1.0)
    z, expected = jax.jit(lambda x: model.apply(params, x, method="latents_and_codes"))(x)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(rebuilt, model.apply(params, codes, method="decode"), atol=1e-4)
    chosen = np.asarray(model.apply(params, method="code_vectors"))[np.asarray(codes)]
    distance = ((np.asarray(z) - chosen) ** 2).sum(-1).mean()
    np.testing.assert_allclose([terms["codebook"], terms["commitment"]], [distance, distance], rtol=1e-4)
    continuous, _, terms = apply(x, 0.0)
    np.testing.assert_allclose(
        continuous, model.apply(params, z, method=lambda module, z: module.decoder(z)), atol=1e-4
    )
    assert terms["commitment"] == 0.0 and terms["codebook"] > 0.0


def test_pixels_go_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    floats = to_float(pixels)
    assert floats.min() == -1.0 and floats.max() == 1.0
    assert np.abs(np.asarray(to_uint8(floats), int) - pixels).max() <= 1  # truncated, not rounded
    np.testing.assert_array_equal(to_uint8(jnp.array([-3.0, 3.0])), [0, 255])


def test_psnr_of_a_known_error():
    x = jnp.zeros((2, 4, 4, 3))
    ratios = psnr(x, jnp.stack([jnp.full((4, 4, 3), 0.2), jnp.full((4, 4, 3), 5.0)]))
    np.testing.assert_allclose(ratios, [20.0, 10 * np.log10(4.0)], rtol=1e-5)  # peak to peak is 2; 5 is clipped to 1


# -- through the pipeline


def test_encode_and_decode_shapes(pipe):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    codes = pipe.encode(pictures)
    assert codes.shape == (2, 2, 3) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 64
    back = pipe.decode(codes)
    assert back.shape == pictures.shape and back.dtype == np.uint8


def test_pictures_of_a_batch_are_encoded_one_by_one(pipe):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pipe.encode(pictures)[1:2], pipe.encode(pictures[1:2]))


def test_many_pictures_go_in_parts_of_one_size(pipe, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    codes = pipe.encode(pictures)
    expected, sizes = (codes, pipe.decode(codes)), []
    for name in ("_to_codes", "to_pixels"):
        program = getattr(tokenizing, name)

        def counted(params, given, config, program=program):
            sizes.append(len(given))
            return program(params, given, config=config)

        monkeypatch.setattr(tokenizing, name, counted)
    monkeypatch.setattr(tokenizing, "LIMIT", 2 * 8 * 12 * pipe.vq_config.channels)
    for found, whole in zip((pipe.encode(pictures), pipe.decode(codes)), expected, strict=True):
        np.testing.assert_array_equal(found, whole)
    assert sizes == [2] * 6  # the last part, of one image, is filled up


def test_how_many_pictures_go_together():
    """At least one, however large it is."""
    assert at_once(EMU3, 720, 720) == at_once(EMU3, 4000, 4000) == 1
    assert at_once(JANUS, 384, 384) == 7
    assert at_once(VQConfig(channels=48), 128, 128) == 170


WRONG = [(2, 9, 12, 3), (2, 8, 10, 3), (2, 8, 12, 4), (2, 8, 12), (8, 12, 3)]
EMPTY = [(2, 0, 12, 3), (2, 8, 0, 3), (0, 8, 12, 3)]


@pytest.mark.parametrize("shape", WRONG + EMPTY)
def test_pictures_of_bad_sizes_are_refused(pipe, shape):
    with pytest.raises(UserError, match=r"\[B, H, W, 3\].*multiples of 4"):
        pipe.encode(np.zeros(shape, np.uint8))


def test_pictures_must_be_bytes(pipe):
    with pytest.raises(UserError, match="uint8"):
        pipe.encode(np.zeros((1, 8, 12, 3), np.float32))


@pytest.mark.parametrize("codes", [np.zeros((2, 3)), np.full((1, 2, 3), 64), np.full((1, 2, 3), -1)])
def test_codes_out_of_range_are_refused(pipe, codes):
    with pytest.raises(UserError, match=r"\[B, R, C\].*0\.\.63"):
        pipe.decode(codes.astype(np.int32))


# -- the bundled tokenizer


def test_round_trip_of_heldout_pictures(bundled, fixtures):
    pictures = np.load(fixtures / "heldout_images.npy", allow_pickle=False)
    rebuilt = bundled.decode(bundled.encode(pictures))
    ratios = np.asarray(psnr(to_float(jnp.asarray(pictures)), to_float(jnp.asarray(rebuilt))))
    assert ratios.mean() >= MIN_PSNR, f"{ratios.mean():.2f} dB on average"
    assert ratios.min() >= MIN_PSNR - 8.0, f"{ratios.min():.2f} dB at worst"


def test_heldout_codes_are_those_of_the_bundled_tokenizer(bundled, fixtures):
    pictures = np.load(fixtures / "heldout_images.npy", allow_pickle=False)
    stored = np.array(json.loads((fixtures / "heldout.json").read_text())["codes"])
    codes = bundled.encode(pictures).reshape(stored.shape)
    assert np.mean(codes == stored) > 0.995  # a machine's own rounding may move a few latents to a neighbour
