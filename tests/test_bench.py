"""The benchmark: what it prints, what it refuses, and that its "model's own forward" is all of the model's work."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import bench, entry
from ssd_jax.decode.ar import AR
from ssd_jax.decode.engine import make_cache
from ssd_jax.layout import Grid
from ssd_jax.prompts import pad_left


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*arguments) -> (exit code, standard output, standard error)."""

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        try:
            entry.run(bench.main)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


def test_it_prints_a_row_per_decoder(run, random_folder):
    code, stdout, _ = run("--decoders=ar", f"--weights={random_folder}", "--seeds=1", "--repeats=1")
    assert code == 0
    machine, head, _, row = stdout.splitlines()
    assert "float32" in machine
    names = [cell.strip() for cell in head.split("|")[1:-1]]
    cells = dict(zip(names, [cell.strip() for cell in row.split("|")[1:-1]], strict=True))
    assert cells["decoder"] == "ar" and float(cells["passes"]) == 16
    seconds, per_pass = float(next(cells[n] for n in names if "seconds" in n).split()[0]), float(cells["ms per pass"])
    assert per_pass == pytest.approx(1e3 * seconds / 16, rel=0.5, abs=0.1)
    assert cells["outside the model's forward"].endswith(" %")


@pytest.mark.parametrize(
    ("flag", "word"), [("--decoders=ar,fast", "'fast'"), ("--seeds=0", "--seeds"), ("--weights=/nowhere", "/nowhere")]
)
def test_it_refuses_in_one_sentence(run, random_folder, flag, word):
    code, stdout, stderr = run(f"--weights={random_folder}", flag)
    assert code == 2 and stdout == ""
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and word in stderr


def test_the_forward_alone_makes_the_passes_that_ar_makes(pipe):
    """The prefill fills the prompt's slots and each of the R*C - 1 passes one more; the last token is never read."""
    config, grid = pipe.config, Grid(4, 4)
    ids, mask = pad_left([pipe.prompts.frame("red apple"), pipe.prompts.frame("")], config.pad_id)
    cache = make_cache(config, AR(), grid, 2, ids.shape[1], jnp.float32)
    _, cache = bench.forward_only(pipe.params, cache, ids, mask, config=config, grid=grid)
    for layer in (*cache.keys, *cache.values):
        written = np.any(np.asarray(layer) != 0, axis=(1, 3))  # [rows, slots]
        assert written[:, : ids.shape[1] + 15].all() and not written[:, ids.shape[1] + 15].any()
