"""The scripts of examples/ do what they say; new_decoder.py is in test_new_decoder.py."""

import runpy

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import ssd_jax
from ssd_jax.decode import drafting


@pytest.fixture
def example(pipe, monkeypatch):
    """example(name) -> what a script defines; the model that it loads is a small one."""
    monkeypatch.setattr(ssd_jax, "load", lambda name: pipe)
    return lambda name: runpy.run_path(str(ROOT / "examples" / name))


def test_there_is_a_test_for_every_example():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "new_decoder.py", "own_drafter.py", "many_prompts.py"
    }  # fmt: skip


def test_a_drafter_from_outside_changes_no_image(example, pipe):
    try:
        example("own_drafter.py")
        with pytest.raises(ValueError, match="there is a drafter 'stubborn' already"):
            drafting.drafter("stubborn")
        exact, own = (pipe.generate(["dog"], name) for name in ("ar", ssd_jax.Raster(window=4, drafter="stubborn")))
        np.testing.assert_array_equal(own.tokens, exact.tokens)
        assert own.passes[0] <= exact.passes[0]
    finally:
        drafting.DRAFTERS.remove("stubborn")
        del drafting.GUESSES["stubborn"]


def test_many_prompts_are_drawn_once(example, pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem((found := example("many_prompts.py"))["main"].__globals__, "BATCH", 2)
    draw = pipe.generate
    monkeypatch.setattr(pipe, "generate", lambda texts, **options: draw(texts, **{**options, "decoder": "ar"}))
    (tmp_path / "prompts.txt").write_text("dog\n\ncat\ndog\n")
    found["main"](tmp_path / "prompts.txt", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"] and "3 of 3 drawn" in capsys.readouterr().out
    first, _, third = (np.asarray(Image.open(tmp_path / "out" / name)) for name in names)
    assert (first != third).any()  # of the same prompt
    (tmp_path / "out" / "00002.png").unlink()
    found["main"](tmp_path / "prompts.txt", tmp_path / "out")
    assert "1 of 1 drawn" in capsys.readouterr().out
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "00002.png")), third)
    for shard in ("2/2", "1/2"):
        found["main"](tmp_path / "prompts.txt", tmp_path / "parts", shard)
    assert capsys.readouterr().out.count("drawn") == 2
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
