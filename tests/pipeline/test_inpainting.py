"""In-painting: a part of an image is given, the rest is drawn; every decoder as if it had drawn the given part itself.

That decoders keep given tokens is in tests/decode/test_given_tokens.py.
"""

import numpy as np
import pytest
from PIL import Image

from ssd_jax.errors import UserError


@pytest.fixture(scope="module")
def size(headed) -> tuple[int, int]:
    return headed.config.rows * headed.vq_config.stride, headed.config.cols * headed.vq_config.stride


@pytest.fixture(scope="module")
def image(size) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


def corner(shape) -> np.ndarray:
    """True in the lower right quarter."""
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2 :, shape[1] // 2 :] = True
    return mask


def test_tokens_outside_the_mask_are_those_of_the_image(headed, image):
    mask = corner((headed.config.rows, headed.config.cols))
    codes = headed.encode(image[None])[0]
    out = headed.generate(["red apple", "dog"], num_images=2, max_batch=3, image=image, mask=mask)
    assert out.tokens.shape == (4, *mask.shape)
    assert (out.tokens[:, ~mask] == codes[~mask]).all()
    assert len({tokens[mask].tobytes() for tokens in out.tokens}) == 4  # each with its own noise
    free = headed.generate(["red apple", "dog"], num_images=2, max_batch=3)
    assert (free.tokens[:, ~mask] != codes[~mask]).any()


@pytest.mark.parametrize("decoder", ["ssd-exact", "jacobi-above", "ssd-tree"])
def test_exact_decoders_draw_the_same_image(headed, image, decoder):
    mask = corner((headed.config.rows, headed.config.cols))
    one, two = (
        headed.generate(["red apple", "dog"], decoder=name, image=image, mask=mask, pixels=False)
        for name in ("ar", decoder)
    )
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert two.passes.max() < one.passes.max()


def test_masks_by_token_by_pixel_and_as_images_are_the_same(headed, image, size):
    mask = corner((headed.config.rows, headed.config.cols))
    stride = headed.vq_config.stride
    pixels = mask.repeat(stride, axis=0).repeat(stride, axis=1)
    spot = np.zeros(size, bool)
    spot[-1, -1] = True  # one pixel draws its token
    last = np.zeros(mask.shape, bool)
    last[-1, -1] = True
    given = {
        "tokens": (image, mask),
        "pixels": (image, pixels),
        "Pillow": (Image.fromarray(image), Image.fromarray(pixels.astype(np.uint8) * 255)),
        "opaque": (Image.fromarray(image).convert("RGBA"), Image.fromarray(pixels).convert("1")),
    }
    drawn = {name: headed.generate(["dog"], image=i, mask=m, pixels=False).tokens for name, (i, m) in given.items()}
    assert all((tokens == drawn["tokens"]).all() for tokens in drawn.values())
    one, two = (headed.generate(["dog"], image=image, mask=m, pixels=False).tokens for m in (spot, last))
    np.testing.assert_array_equal(one, two)


def test_what_is_transparent_is_white(headed, size):
    mask = corner((headed.config.rows, headed.config.cols))
    clear = Image.new("RGBA", size[::-1], (0, 0, 0, 0))
    white = np.full((*size, 3), 255, np.uint8)
    one, two = (headed.generate(["dog"], image=i, mask=mask, pixels=False).tokens for i in (clear, white))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "needs both image and mask"),
        ({"image": None}, "needs both image and mask"),
        ({"image": np.zeros((3, 3, 3), np.uint8)}, r"The image must be uint8 \[.*, 3\], not uint8 \[3, 3, 3\]"),
        ({"image": Image.new("RGB", (3, 5))}, "The image is 5 x 3 pixels, but "),
        ({"image": "photo.png"}, "The image must be uint8"),
        ({"mask": np.ones((2, 2), bool)}, r"The mask must be bool \[.*\], or \[.*\] by pixels, not bool \[2, 2\]"),
        ({"mask": np.ones((4, 4))}, "The mask must be bool .* not float64"),
        ({"mask": np.zeros((4, 4), bool)}, "The mask draws nothing"),
    ],
)
def test_odd_images_and_masks(headed, image, change, message):
    given = {"image": image, "mask": corner((headed.config.rows, headed.config.cols))} | change
    with pytest.raises(UserError, match=message):
        headed.generate(["dog"], **given)


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "LAB"])
def test_modes_that_would_be_clipped_are_refused(headed, size, mode):
    mask = corner((headed.config.rows, headed.config.cols))
    with pytest.raises(UserError, match=f"The image has the mode {mode}; convert it to RGB"):
        headed.generate(["dog"], image=Image.new(mode, size[::-1]), mask=mask)
    with pytest.raises(UserError, match="The mask must be an image of 8 bits without transparency"):
        headed.generate(["dog"], image=Image.new("RGB", size[::-1]), mask=Image.new(mode, size[::-1]))
    with pytest.raises(UserError, match="without transparency"):
        headed.generate(["dog"], image=Image.new("RGB", size[::-1]), mask=Image.new("RGBA", size[::-1]))


def test_an_almost_black_pixel_is_drawn(headed, image, size):
    mask = Image.new("RGB", size[::-1])
    mask.putpixel((size[1] - 1, size[0] - 1), (0, 0, 4))
    last = np.zeros((headed.config.rows, headed.config.cols), bool)
    last[-1, -1] = True
    one, two = (headed.generate(["dog"], image=image, mask=m, pixels=False).tokens for m in (mask, last))
    np.testing.assert_array_equal(one, two)


def test_a_run_that_is_stopped_early_has_all_given_tokens(headed, image):
    mask = corner((headed.config.rows, headed.config.cols))
    codes = headed.encode(image[None])[0]
    out = headed.generate(["red apple", "dog"], image=image, mask=mask, max_passes=3, pixels=False)
    assert (out.tokens[:, ~mask] == codes[~mask]).all() and (out.passes == 3).all()
