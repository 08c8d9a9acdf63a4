"""Images a minute by the size of batches: the same images in every column, and what waiting for the slowest costs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ssd_jax import PRESETS, UserError
from ssd_jax.bench.options import parse
from ssd_jax.bench.throughput import (
    Throughput,
    estimate_throughput,
    measure_throughput,
    require_countable,
    throughput_table,
)
from ssd_jax.cli import bench

PROMPTS = ["red apple", "dog", "green heart"]


def test_every_size_draws_the_same_images_and_each_has_its_seed(headed, monkeypatch):
    calls, draw = [], headed.generate

    def watched(texts, decoder, **options):
        out = draw(texts, decoder, **options)
        calls.append((decoder, options["max_batch"], out))
        return out

    monkeypatch.setattr(headed, "generate", watched)
    decoders = {name: PRESETS[name] for name in ("ar", "sjd")}
    found = measure_throughput(headed, decoders, PROMPTS, [1, 4], repeats=2)
    assert len(calls) == 2 * 2 * 3
    for _, _, out in calls:
        assert out.prompts == ["red apple", "dog", "green heart", "red apple"] and out.seeds == [0, 1, 2, 3]
    one, four = ([out for decoder, size, out in calls if (decoder, size) == (PRESETS["sjd"], n)] for n in (1, 4))
    np.testing.assert_array_equal(one[0].tokens, four[0].tokens)
    # The first run of each compiles, and does not count.
    assert found["sjd"][4].per_minute == pytest.approx(240 / np.median([out.seconds for out in four[1:]]))
    assert found["sjd"][1].waiting == found["ar"][4].waiting == 0
    passes = four[0].passes
    assert found["sjd"][4].waiting == pytest.approx(1 - passes.mean() / passes.max()) and passes.min() < passes.max()


def test_the_table_has_a_line_per_decoder():
    found = {
        "ar": {1: Throughput(60, 0), 4: Throughput(99.6, 0)},
        "ssd-exact": {1: Throughput(80, 0), 4: Throughput(90, 0.2)},
    }
    assert throughput_table(found).splitlines() == [
        "| decoder | images / min, 1 at once | images / min, 4 at once | waiting |",
        "|---|---|---|---|",
        "| `ar` | 60 | 100 | 0% |",
        "| `ssd-exact` | 80 | 90 | 20% |",
    ]


class Counted:
    """A pipeline whose prefill takes 1 s and whose other passes take 0.1 s for each image, and that draws nothing."""

    def __init__(self, pipe):
        self.config, self.head_counts = pipe.config, pipe.head_counts

    def generate(self, prompts, decoder, seed, max_batch, pixels, max_passes):
        assert len(prompts) == len(seed) == max_batch
        passes = min(max_passes, 16)
        return SimpleNamespace(seconds=1 + 0.1 * max_batch * (passes - 1), passes=np.full(max_batch, passes))


def test_from_some_passes_of_a_batch(headed):
    decoders = {"ar": PRESETS["ar"], "sjd": PRESETS["sjd"]}
    found = estimate_throughput(Counted(headed), decoders, PROMPTS, [1, 4], repeats=2, passes=3)
    assert found["ar"][4].seconds_per_pass == pytest.approx(0.4)
    assert found["ar"][4].per_minute == pytest.approx(60 * 4 / (1 + 0.4 * 15))  # a grid of 4 x 4
    assert found["sjd"][1] == (None, None, pytest.approx(0.1))
    assert throughput_table(found).splitlines() == [
        "| decoder | ms / pass, 1 at once | ms / pass, 4 at once | images / min, 1 at once | images / min, 4 at once |",
        "|---|---|---|---|---|",
        "| `ar` | 100 | 400 | ~24 | ~34.3 |",
        "| `sjd` | 100 | 400 |  |  |",
    ]
    few = {"ar": {1: Throughput(None, None, 0.00081), 4: Throughput(None, None, 3.2212)}, "sjd": {1: found["sjd"][1]}}
    assert [line.split(" | ")[1:3] for line in throughput_table(few).splitlines()[2:]][0] == ["0.81", "3221"]


def test_some_passes_of_random_weights_by_the_command(run_command, tmp_path):
    """An exact decoder, whose passes depend on the image, has milliseconds alone."""
    flags = ["--config=configs/janus_pro.py:tiny", "--weights=random", "--metrics=throughput", "--passes=2"]
    flags += ["--decoders=ar,jacobi-above", "--batches=1,2", "--repeats=1", f"--out={tmp_path / 'bench'}"]
    code, said, error = run_command(bench.main, "bench", *flags)
    assert code == 0, error
    line = next(line for line in said.splitlines() if line.startswith("| `jacobi-above` |"))
    assert [bool(cell.strip()) for cell in line.split("|")[2:-1]] == [True, True, False, False]
    assert "at least 2 passes of one batch" in said


def test_the_command_writes_table_and_numbers(run_command, headed_folder, tmp_path):
    flags = ["--metrics=throughput", "--decoders=ar,jacobi-wave", "--batches=1,2", "--repeats=1"]
    flags += [f"--weights={headed_folder}"]
    code, said, error = run_command(bench.main, "bench", *flags, f"--out={tmp_path / 'bench'}")
    assert code == 0, error
    assert "| `jacobi-wave` |" in said and "2 at once" in said
    assert "images / min, 2 at once" in (tmp_path / "bench" / "bench.md").read_text()
    rows = json.loads((tmp_path / "bench" / "bench.json").read_text())["decoders"]
    assert rows["jacobi-wave"]["throughput"]["2"]["per_minute"] > 0 and rows["ar"]["throughput"]["1"]["waiting"] == 0


def test_of_noise_only_decoders_with_a_fixed_number_of_passes_are_timed(headed, monkeypatch):
    monkeypatch.setattr("ssd_jax.bench.throughput.is_random", lambda pipe: True)
    with pytest.raises(UserError, match="leave out ssd-exact, sjd"):
        require_countable(headed, {name: PRESETS[name] for name in ("ar", "ssd-exact", "sjd")})
    require_countable(headed, {"ar": PRESETS["ar"]})


@pytest.mark.parametrize("sizes", ["", "0", "4,1", "1,1", "3,4", "1,x", "-1", "1.5", "1,,4", str(2**21), "9" * 5000])
def test_sizes_of_batches_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UserError, match="--batches are sizes"):
        parse([f"--batches={sizes}"])
    assert parse(["--batches=1, 4,16"]).batches == [1, 4, 16]
