"""Streaming: previews while images are drawn, by every decoder, and a drawing that can be stopped."""

import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from ssd_jax import SSD, Flash
from ssd_jax.errors import UserError
from ssd_jax.pipeline import streaming
from ssd_jax.viz import UNDRAWN

PROMPTS = ["red apple", "dog"]


STREAMED = ["ar", "sjd-pac", "ssd-tree", "mtp", "ssd", SSD(rounds="auto"), "ssd-wave", "pjd", Flash(rounds=2)]
"""One for every loop."""


@pytest.mark.parametrize("decoder", STREAMED, ids=str)
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
    for decoder in ("ar", "ssd-tree", "mtp", "ssd-wave", "flash", Flash(rounds=2)):
        trace = headed.generate(PROMPTS, decoder=decoder).trace
        for preview in headed.stream(PROMPTS, decoder=decoder, every=1):
            np.testing.assert_array_equal(preview.final, trace <= preview.passes)


def test_the_rounds_of_flash_can_be_cut_short(headed):
    """A grid of 4 x 4 has 7 anti-diagonals; the limit, and whoever stops the stream, hold for both loops."""
    drawn, one = (headed.generate(PROMPTS, decoder=Flash(rounds=rounds)) for rounds in (0, 1))
    for limit, expected in ((7, drawn), (8, one)):
        out = headed.generate(PROMPTS, decoder=Flash(rounds=2), max_passes=limit)
        assert out.passes.tolist() == [limit] * 2
        np.testing.assert_array_equal(out.tokens, expected.tokens)
    with headed.stream(PROMPTS, decoder=Flash(rounds=2), every=1) as stream:
        assert next(preview for preview in stream if preview.passes == 8).final.sum() == 2  # token 0 of both
    assert list(stream) == [] and stream.output is None


def test_every_says_which_passes_are_shown(headed):
    for every, passes in ((1, [*range(2, 17)]), (5, [5, 10, 15, 16]), (16, [16]), (1000, [16])):
        assert [preview.passes for preview in headed.stream(PROMPTS, every=every)] == passes
    assert [preview.passes for preview in headed.stream(PROMPTS, every=3, max_passes=8)] == [3, 6]


def test_previews_are_of_all_images_of_the_call(headed):
    """Six images, four at once: those of later batches are still missing. The end of a batch is always shown."""
    stream = headed.stream(PROMPTS, num_images=3, max_batch=4, every=6)
    counts = [(preview.passes, preview.final.sum(axis=(1, 2)).tolist()) for preview in stream]
    assert counts == [
        (6, [6, 6, 6, 6, 0, 0]),
        (12, [12, 12, 12, 12, 0, 0]),
        (16, [16, 16, 16, 16, 0, 0]),
        (6, [16, 16, 16, 16, 6, 6]),
        (12, [16, 16, 16, 16, 12, 12]),
        (16, [16] * 6),
    ]
    *_, last = headed.stream(PROMPTS, num_images=3, max_batch=2, decoder="ssd", every=1000)
    finished = headed.generate(PROMPTS, num_images=3, max_batch=2, decoder="ssd")
    assert last.share == 1 and (last.tokens == finished.tokens).all()


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


@pytest.mark.parametrize("decoder", ["ar", "ssd"])
def test_a_stream_that_is_closed_or_forgotten_stops_drawing(headed, decoder):
    before = set(threading.enumerate())
    with headed.stream(PROMPTS, decoder=decoder, every=1) as stream:
        assert next(stream).passes == 2
    assert set(threading.enumerate()) <= before
    assert list(stream) == [] and stream.output is None
    headed.stream(PROMPTS).close()  # not even begun
    for preview in headed.stream(PROMPTS, decoder=decoder, every=1):
        assert preview.passes == 2
        break
    del preview
    deadline = time.monotonic() + 60
    while not set(threading.enumerate()) <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("decoder", ["ar", "ssd", "ssd-wave"])
def test_what_a_callback_raises_ends_the_drawing(headed, decoder):
    """`ssd` has two loops: the second one is not begun."""
    passes = []

    def show(preview):
        passes.append(preview.passes)
        if len(passes) == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        headed.generate(PROMPTS, num_images=2, max_batch=2, decoder=decoder, progress=show, every=1)
    assert passes == [2, 3]
    seen = []
    expected = headed.generate(PROMPTS, decoder=decoder)
    out = headed.generate(PROMPTS, decoder=decoder, progress=seen.append, every=2)
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    assert seen[-1].share == 1


def test_a_stream_is_closed_from_another_thread_while_it_is_read(headed):
    """A button "cancel": the reader's loop ends, and nothing is drawn any more."""
    stream, read = headed.stream(PROMPTS * 200, max_batch=1, every=1), []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    while not read:
        time.sleep(0.01)
    stream.close()
    reader.join(timeout=60)
    assert not reader.is_alive() and stream.output is None and read[-1].share < 1
    stream.close()  # again
    assert list(stream) == []


def test_a_reader_that_is_late_finds_the_newest_previews(headed, monkeypatch):
    work, read = streaming._work, threading.Event()

    def after_the_first_is_read(draw, *rest):
        """So that the reader is not late already when it starts."""

        def held(show):
            return draw(lambda preview: (preview.passes == 2 or read.wait(60)) and show(preview))

        work(held, *rest)

    monkeypatch.setattr(streaming, "UNREAD", 3)
    monkeypatch.setattr(streaming, "_work", after_the_first_is_read)
    stream = headed.stream(PROMPTS, every=1)
    first = next(stream).passes
    read.set()
    stream._thread.join()
    late = [preview.passes for preview in stream]
    assert first == 2 and late[-1] == 16 and len(late) <= 3
    assert stream.output is not None


def test_an_interrupt_leaves_nothing_behind(headed, monkeypatch):
    """Ctrl-C while a program runs: it is stopped and waited for, and the next drawing hears only of itself."""
    wait, first = jax.block_until_ready, []

    def interrupted(out):
        if not first:
            first.append(True)
            raise KeyboardInterrupt
        return wait(out)

    monkeypatch.setattr(jax, "block_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        headed.generate(PROMPTS, progress=lambda preview: None, every=1)
    seen = []
    out = headed.generate(PROMPTS[:1], progress=seen.append, every=4)
    assert [preview.tokens.shape for preview in seen] == [(1, 4, 4)] * 4
    np.testing.assert_array_equal(seen[-1].tokens, out.tokens)


def test_an_interrupt_without_a_watch_waits_for_nothing_and_stops_no_stream(headed, monkeypatch):
    stream = headed.stream(PROMPTS, every=1, num_images=20, max_batch=1)
    next(stream)
    drawing, wait, calls = threading.current_thread(), jax.block_until_ready, []

    def interrupted(out):
        if threading.current_thread() is not drawing:
            return wait(out)
        calls.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(jax, "block_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        headed.generate(PROMPTS)
    assert calls == [True]
    *_, last = stream
    assert last.share == 1 and stream.output.tokens.shape[0] == 40


def test_the_interpreter_does_not_wait_for_a_drawing(headed_folder):
    script = f"""
import ssd_jax
stream = ssd_jax.load({str(headed_folder)!r}).stream(["dog"] * 4000, max_batch=1, every=1)
print(next(stream).passes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert (done.returncode, done.stdout) == (0, "2\n") and "Traceback" not in done.stderr


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
        ({"every": 2**40}, "every"),
        ({"every": 1.5}, "every"),
        ({"progress": print}, "no argument progress"),
        ({"decoders": "ar"}, "did you mean decoder"),
        ({"decoder": "nonesuch"}, "nonesuch"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_argument_is_named_where_the_stream_is_read(headed, options, said):
    with pytest.raises(UserError, match=said):
        next(headed.stream(PROMPTS, **options))


@pytest.mark.parametrize("progress", [True, 3])
def test_progress_must_be_a_function(headed, progress):
    with pytest.raises(UserError, match="progress must be a function"):
        headed.generate(PROMPTS, progress=progress)


def test_several_processes_show_no_progress(headed, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="several processes"):
        headed.generate(PROMPTS, progress=print)
