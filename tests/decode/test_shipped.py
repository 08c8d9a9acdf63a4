"""With the dtype and the programs that users run, exact decoders give `ar`'s images bit for bit.

On a CPU with bfloat16 products nothing else is needed: a token has the same bits in every window and batch. Elsewhere
bits depend on how many positions stand in a window, and the decoders are compared with `AR(window=W)` of their own.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def shipped() -> dict:
    # Compiled as for users; the suite's cache of programs changes none.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(ROOT / "tests" / "shipped.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def skip_unless_steady(shipped: dict) -> None:
    if not shipped["steady"]:
        pytest.skip("nothing is promised of the bits of float32")


def test_exact_decoders_draw_the_pictures_of_ar(shipped):
    control = shipped["pictures"].pop("negative control: another seed")
    print(shipped["numerics"], shipped["pictures"])
    assert control[0] == 0
    assert [name for name, (equal, total) in shipped["pictures"].items() if equal < total] == []


def test_a_row_of_a_product_does_not_depend_on_the_others(shipped):
    skip_unless_steady(shipped)
    assert shipped["products"] == []


def test_attention_does_not_depend_on_what_stands_beside_a_query(shipped):
    skip_unless_steady(shipped)
    assert shipped["attention"] == []


def test_a_token_has_the_same_bits_in_every_window_and_batch(shipped):
    skip_unless_steady(shipped)
    assert shipped["passes"] == []


def test_programs_without_our_options_sum_the_right_rows(shipped):
    print(shipped["sums"])
    assert max(shipped["sums"].values()) < 1e-3


def test_sjd_really_resamples(shipped):
    """It draws rejected positions afresh where `scd` keeps what it can; noise shared between passes made them equal."""
    print(f"mean passes {shipped['resampling']}")
    assert shipped["resampling"]["sjd"] > 1.2 * shipped["resampling"]["scd"]


def test_no_pass_converts_or_copies_the_cache_or_copies_the_scores(shipped):
    assert shipped["cache moves"] == []
    if shipped["numerics"]["dtype"] == "bfloat16":
        assert shipped["negative control: moves"]
