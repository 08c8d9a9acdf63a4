"""What the page shows of a drawing: previews, the image of `generate`, how it came about, and files that say so."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ssd_jax.demo import drawing
from ssd_jax.demo.drawing import SHOWN, Wish, draw
from ssd_jax.errors import UserError
from ssd_jax.viz import UNDRAWN, enlarged

OPTIONS = {"seed": 3, "cfg_scale": 2.0, "top_k": 5}


@pytest.mark.parametrize("decoder", ["ar", "Wave(drafter='above')"])
def test_the_last_thing_shown_is_the_image_and_files_that_reproduce_it(headed, tmp_path, decoder):
    *_, shown = draw(headed, Wish("red apple", decoder, OPTIONS), tmp_path)
    picture, record = shown.files
    made = json.loads(open(record).read())
    again = headed.generate([made["prompt"]], decoder=drawing.parse_decoder(made["decoder"]), **OPTIONS)
    assert {key: made[key] for key in OPTIONS} == OPTIONS
    assert np.array_equal(Image.open(picture), again.images[0])
    np.testing.assert_array_equal(shown.image, enlarged(np.asarray(again.images[0]), SHOWN // 16))
    assert made["passes"] == again.passes[0] and f"{made['passes']} passes for 16 tokens" in shown.status
    assert ("not lossless" in shown.status) == (decoder != "ar")
    with Image.open(shown.animation) as animation:
        assert animation.n_frames == len(np.unique(again.trace)) and animation.size == (256, 256)
    assert shown.passes.ndim == 3


def test_previews_come_when_they_are_due(headed, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "PAUSE", 0.0)
    monkeypatch.setattr(drawing, "LARGE", 0)
    first, *previews, _ = draw(headed, Wish("red apple", "ar", OPTIONS), tmp_path)
    assert first.image is None and "compiled first" in first.status
    grey = [(preview.image == UNDRAWN).all(axis=-1).mean() for preview in previews]
    assert len(grey) == 14 and grey == sorted(grey, reverse=True)
    assert "2 passes, 12% of the tokens" in previews[0].status
    monkeypatch.setattr(drawing, "PAUSE", 1e9)
    assert len(list(draw(headed, Wish("red apple", "ar", OPTIONS), tmp_path))) == 2


def test_words_that_the_model_does_not_know_are_named(headed, tmp_path):
    *_, shown = draw(headed, Wish("red zeppelin", "ar", OPTIONS), tmp_path)
    assert "zeppelin" in shown.status


def test_files_are_removed_when_they_are_old(headed, tmp_path, monkeypatch):
    list(draw(headed, Wish("red apple", "ar", OPTIONS), tmp_path))
    (old,) = tmp_path.iterdir()
    list(draw(headed, Wish("red apple", "ar", OPTIONS), tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    os.utime(old, (0, 0))
    list(draw(headed, Wish("red apple", "ar", OPTIONS), tmp_path))
    assert not old.exists() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("decoder", ["ssd", "SSD(rounds=0)", "Wave(down=10000)", "Raster(window=17)"])
def test_a_decoder_that_the_model_cannot_run_is_refused_at_once(pipe, tmp_path, decoder):
    with pytest.raises(UserError):
        next(draw(pipe, Wish("red apple", decoder, OPTIONS), tmp_path))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("red apple", "nonesuch", {}), "nonesuch"),
        (Wish("red apple", "ar", {"seed": -1}), "seed"),
        (Wish("red apple", "ar", {"size": "7x7"}), "7x7"),
        (Wish(None, "ar", {}), "prompt"),
        (Wish("a" * 30_000, "ar", {}), "letters"),
    ],
)
def test_a_bad_wish_is_a_user_error_and_leaves_no_file(headed, tmp_path, wish, said):
    with pytest.raises(UserError, match=said):
        list(draw(headed, wish, tmp_path))
    assert not list(tmp_path.iterdir())


def test_names_of_files_are_made_of_letters(headed, tmp_path):
    *_, shown = draw(headed, Wish("../red/apple " * 9, "ar", OPTIONS), tmp_path)
    names = [path.name for path in tmp_path.rglob("*.png")]
    assert names == ["red-apple-red-apple-red-apple-red-apple-3.png"]
    assert all(path.resolve().is_relative_to(tmp_path.resolve()) for path in tmp_path.rglob("*"))
