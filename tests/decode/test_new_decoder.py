"""A decoder that is written outside the package: one file, one registration, and every tool knows it."""

import json
import runpy
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from ssd_jax import UserError
from ssd_jax.cli import bench
from ssd_jax.decode.base import KINDS, Decoder, register
from ssd_jax.decode.names import parse_decoder
from ssd_jax.sequence.layout import Grid


@pytest.fixture
def lawn():
    """The decoder of the example; its name goes with the test."""
    yield runpy.run_path(str(ROOT / "examples" / "new_decoder.py"))["Lawn"]
    del KINDS["Lawn"]


def test_its_name_is_known(lawn):
    assert parse_decoder("Lawn(sweeps=2)") == lawn(sweeps=2)
    with pytest.raises(ValueError, match="another decoder of the name Lawn"):
        register(type("Lawn", (Decoder,), {}))


def test_it_draws_and_as_often_as_there_are_tokens_it_is_ar(lawn, pipe):
    """A sweep makes one more token right at least; 7 of them all of 2 x 4."""
    call = dict(size=(8, 16), pixels=False)
    ar, few, many = (pipe.generate(["dog"], decoder, **call) for decoder in ("ar", lawn(1), lawn(7)))
    assert few.passes.tolist() == [2] and many.passes.tolist() == [8]
    np.testing.assert_array_equal(many.tokens, ar.tokens)
    assert (few.tokens != ar.tokens).any()


def test_sample_and_bench_take_it(lawn, random_folder, tmp_path, command_line, monkeypatch):
    code, _, error = command_line(
        "--prompt=dog", f"--weights={random_folder}", "--decoder=Lawn(sweeps=2)", f"--out={tmp_path / 'drawn'}"
    )
    assert code == 0, error
    assert json.loads((tmp_path / "drawn" / "images.json").read_text())["options"]["decoder"] == "Lawn(sweeps=2)"
    out = tmp_path / "bench"
    flags = ["--decoders=ar,Lawn(sweeps=2)", "--metrics=speed,quality", "--images=3", "--batch=3", "--seeds=1"]
    monkeypatch.setattr(
        sys, "argv", ["bench", f"--weights={random_folder}", "--prompt=dog", "--repeats=1", f"--out={out}", *flags]
    )
    bench.main()
    row = json.loads((out / "bench.json").read_text())["decoders"]["Lawn(sweeps=2)"]
    assert row["passes"] == 3 and row["window"] == 16 and row["lossless"] is False


def test_what_it_does_not_say_has_a_meaning(lawn):
    decoder = lawn()
    assert (decoder.heads, decoder.adaptive, decoder.lossless) == ((0, 0), False, False)
    assert decoder.runs_with(0, 0) and decoder.on_accelerator() is decoder
    decoder.check(Grid(1, 1))
    with pytest.raises(UserError, match="is no decoder"):
        parse_decoder("Lawn(sweep=2)")
    jax.jit(lambda decoder: decoder.sweeps, static_argnums=0)(decoder)  # hashable
