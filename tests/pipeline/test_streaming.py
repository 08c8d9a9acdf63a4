"""Streaming: previews while images are drawn, by every decoder, and a drawing that can be stopped."""

import threading

import numpy as np
import pytest
from PIL import Image

from ssd_jax import SSD
from ssd_jax.errors import UserError
from ssd_jax.viz import UNDRAWN

PROMPTS = ["red apple", "dog"]


@pytest.mark.parametrize("decoder", ["ar", "sjd", "ssd-tree", "mtp", "ssd", SSD(rounds="auto"), "ssd-wave"], ids=str)
def test_what_is_final_stays_and_grows_to_the_image_of_generate(headed, decoder):
    expected = headed.generate(PROMPTS, decoder=decoder)
    stream = headed.stream(PROMPTS, decoder=decoder, every=1)
    previews = list(stream)
    for earlier, later in zip(previews, previews[1:], strict=False):
        assert later.passes == earlier.passes + 1
        assert later.final[earlier.final].all()
    for preview in previews:
        assert (preview.tokens == expected.tokens)[preview.final].all()
    assert previews[-1].share == 1.0 and previews[0].share < 1.0
    np.testing.assert_array_equal(stream.output.tokens, expected.tokens)
    np.testing.assert_array_equal(stream.output.passes, expected.passes)
    for image, other in zip(stream.output.images, expected.images, strict=True):
        assert np.array_equal(image, other)


def test_tokens_are_final_in_the_pass_that_the_trace_names(headed):
    for decoder in ("ar", "ssd-tree", "mtp", "ssd-wave"):
        trace = headed.generate(PROMPTS, decoder=decoder).trace
        for preview in headed.stream(PROMPTS, decoder=decoder, every=1):
            np.testing.assert_array_equal(preview.final, trace <= preview.passes)


def test_every_says_which_passes_are_shown(headed):
    for every, passes in ((1, [*range(2, 17)]), (5, [5, 10, 15]), (16, [16]), (1000, [])):
        assert [preview.passes for preview in headed.stream(PROMPTS, every=every)] == passes
    assert [preview.passes for preview in headed.stream(PROMPTS, every=3, max_passes=8)] == [3, 6]


def test_previews_are_of_all_images_of_the_call(headed):
    """Five images, two at once: those of later batches are still missing."""
    stream = headed.stream(PROMPTS, num_images=3, max_batch=2, every=4)
    counts = [(preview.passes, preview.final.sum(axis=(1, 2)).tolist()) for preview in stream]
    assert counts[0] == (4, [4, 4, 0, 0, 0, 0])
    assert counts[4] == (4, [16, 16, 4, 4, 0, 0])
    assert counts[-1] == (16, [16] * 6)
    assert len(counts) == 12


def test_images_are_grey_where_tokens_are_missing(headed):
    preview, *_, last = headed.stream(PROMPTS, every=4)
    images, stride = preview.images(), headed.vq_config.stride
    assert images.shape == (2, 16, 16, 3) and images.dtype == np.uint8
    assert (images[:, stride:] == UNDRAWN).all()
    assert (images[:, :stride] != UNDRAWN).any()
    finished = headed.generate(PROMPTS).images
    assert np.array_equal(last.images(), np.stack([np.asarray(image) for image in finished]))


def test_what_an_image_gives_is_final_from_the_start(headed):
    mask = np.zeros((4, 4), bool)
    mask[3] = True
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    preview = next(headed.stream(PROMPTS, every=2, image=Image.fromarray(image), mask=mask))
    assert preview.final[:, :3].all() and not preview.final[:, 3].any()
    assert (preview.tokens[:, :3] == headed.encode(image[None])[:, :3]).all()


def test_a_stream_that_is_closed_stops_drawing(headed):
    passes, before = [], set(threading.enumerate())
    stream = headed.stream(PROMPTS, every=2)
    passes.append(next(stream).passes)
    stream.close()
    assert set(threading.enumerate()) <= before
    assert list(stream) == [] and stream.output is None
    assert headed.generate(PROMPTS, every=2, progress=lambda preview: passes.append(preview.passes)).images
    assert passes == [2, *range(2, 17, 2)]


def test_what_a_callback_raises_ends_the_drawing(headed):
    passes = []

    def show(preview):
        passes.append(preview.passes)
        if len(passes) == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        headed.generate(PROMPTS, num_images=2, max_batch=1, progress=show, every=1)
    assert passes == [2, 3, 4]
    assert headed.generate(PROMPTS, progress=lambda preview: None, every=1).passes.tolist() == [16, 16]


def test_several_readers_share_a_model(headed):
    streams = [headed.stream([text], every=4, seed=seed) for seed, text in enumerate(PROMPTS * 2)]
    shown = list(zip(*streams, strict=True))
    assert len(shown) == 4
    for seed, stream in enumerate(streams):
        list(stream)
        alone = headed.generate([(PROMPTS * 2)[seed]], seed=seed)
        np.testing.assert_array_equal(stream.output.tokens, alone.tokens)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"decoders": "ar"}, "did you mean decoder"),
        ({"decoder": "nonesuch"}, "nonesuch"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_argument_is_named_where_the_stream_is_read(headed, options, said):
    with pytest.raises(UserError, match=said):
        next(headed.stream(PROMPTS, **options))
