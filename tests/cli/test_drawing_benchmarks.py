"""python -m ssd_jax.eval.benchmarks from end to end: one image however it is drawn, and mistakes cost nothing.

The model is a small one with random weights. What becomes of the folder is in tests/eval/test_benchmark_folders.py.
"""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import benchmark_scorers
import numpy as np
import pytest
from conftest import ROOT

import ssd_jax
from ssd_jax.cli import benchmarks

PROMPTS = ["red apple", "green heart", "dog", "cat", "dog"]


@pytest.fixture
def run(run_command, random_folder):
    """run(*arguments) of the command, as `run_command`."""
    return partial(run_command, benchmarks.main, "benchmarks", f"--weights={random_folder}")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> dict[str, Path]:
    """The same prompts for each benchmark."""
    here = tmp_path_factory.mktemp("prompts")
    lines = [{"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": text} for text in PROMPTS]
    (here / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (here / "texts").mkdir()
    for number, text in enumerate(PROMPTS):
        (here / "texts" / f"p{number}.txt").write_text(text)
    return {"geneval": here / "lines.jsonl", "dpg": here / "texts"}


@pytest.fixture(params=["geneval", "dpg"])
def command(request, prompts) -> list[str]:
    """What every call of a test begins with."""
    return [request.param, f"--prompts={prompts[request.param]}", "--cfg_scale=2", "--seed=3", "--decoder=jacobi-above"]


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_scorers_read_the_images_of_the_recipe(run, prompts, random_folder, tmp_path):
    """Each with the seed that is written down, so anybody can draw it again."""
    pipe = ssd_jax.load(random_folder)
    for name in ("geneval", "dpg"):
        code, said, errors = run(
            name, f"--prompts={prompts[name]}", f"--out={tmp_path / name}", "--seed=3", "--batch=8"
        )
        assert code == 0, errors
        assert "Drew 20 images of 5 prompts: 16.0 passes each" in said and "has all 5 prompts" in said
        assert f"{tmp_path / name}/images" in said.splitlines()[2]
        recipe = json.loads((tmp_path / name / "recipe.json").read_text())
        assert len({seed for seeds in recipe["seeds"] for seed in seeds}) == 20
        assert [entry["prompt"] for entry in recipe["prompts"]] == PROMPTS
        assert recipe["versions"]["ssd_jax"] == ssd_jax.__version__ and recipe["seed"] == 3
        if name == "geneval":
            read = [image for _, _, image in benchmark_scorers.geneval(tmp_path / name / "images")]
        else:
            tiles = benchmark_scorers.dpg(tmp_path / name / "images", resolution=16)
            read = [tile for key in sorted(tiles) for tile in tiles[key]]
        assert len({image.tobytes() for image in read}) == 20  # also of the prompt that occurs twice
        for number, text in enumerate(PROMPTS):
            again = pipe.generate([text] * 4, seed=recipe["seeds"][number], max_batch=4).images
            np.testing.assert_array_equal(np.stack(again), np.stack(read[4 * number : 4 * number + 4]))


def test_shards_and_batches_of_any_size_draw_what_one_process_draws(run, command, tmp_path):
    assert run(*command, f"--out={tmp_path / 'one'}", "--batch=8")[0] == 0
    for shard, batch in (("2/2", 1), ("1/2", 4)):
        code, said, _ = run(*command, f"--out={tmp_path / 'two'}", f"--shard={shard}", f"--batch={batch}")
        assert code == 0 and ("other shards have to draw the rest" in said) == (shard == "2/2")
    assert run(*command, f"--out={tmp_path / 'many'}", "--shard=7/9")[0] == 0  # it has no prompt
    assert run(*command, f"--out={tmp_path / 'many'}", "--max_batch=10")[0] == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "many")


KILLED = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from ssd_jax.cli import benchmarks, entry
save, left = Image.Image.save, [int(sys.argv.pop())]
def dying(image, path):
    left[0] -= 1
    save(image, path)
    if not left[0]:
        os.truncate(path, Path(path).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
Image.Image.save = dying
entry.run(benchmarks.main)
"""
"""The command, killed when half of its N-th file with images is written."""


def test_a_killed_run_goes_on_where_it_was_and_draws_nothing_twice(run, command, random_folder, tmp_path):
    assert run(*command, f"--out={tmp_path / 'whole'}", "--batch=8")[0] == 0
    out, killed_at = tmp_path / "killed", {"geneval": 10, "dpg": 3}[command[0]]
    arguments = [*command, f"--weights={random_folder}", f"--out={out}", "--batch=4", str(killed_at)]
    environment = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    left, whole = tree(out / "images"), tree(tmp_path / "whole" / "images")
    assert len(left) == {"geneval": 2 * 5, "dpg": 2}[command[0]] and left.items() <= whole.items()
    assert (out / "unfinished").exists()
    times = {name: (out / "images" / name).stat().st_mtime_ns for name in left}
    code, said, _ = run(*command, f"--out={out}", "--batch=8")
    assert code == 0 and "Drew 12 images of 3 prompts" in said
    assert tree(out) == tree(tmp_path / "whole") and not (out / "unfinished").exists()
    assert times == {name: (out / "images" / name).stat().st_mtime_ns for name in left}
    assert "Drew nothing" in run(*command, f"--out={out}", "--batch=3")[1]
    assert tree(out) == tree(tmp_path / "whole")


def test_other_settings_in_the_same_folder_are_refused_by_name(run, command, prompts, headed_folder, tmp_path):
    assert run(*command, f"--out={tmp_path}")[0] == 0
    before = tree(tmp_path)
    for other, named in {
        "--seed=4": "seed, seeds",
        "--decoder=ar": "decoder, window",
        "--top_k=5": "top_k",
        "--temperature=0.5": "temperature",
        "--negative_prompt=cat": "negative_prompt",
        f"--weights={headed_folder}": "model",  # the same backbone, with draft heads
    }.items():
        code, said, errors = run(*command, f"--out={tmp_path}", other)
        assert (code, said) == (2, "") and errors.startswith("error: "), errors
        assert f"holds images with another {named}; choose another --out or remove that folder." in errors
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts=nowhere"], "nowhere cannot be read: No such file"),
        (["--prompts=bad"], "Line 2 of bad is no JSON object"),
        (["--shard=5/4"], "--shard is I/N"),
        (["--out=bad"], "--out must be a folder, and bad is a file"),
        (["--out=full"], "has 'cat.png' in it and no recipe.json"),
        (["--decoder=none"], "none"),
        (["--decoder=ssd"], "draft heads"),
        (["--seed=-1"], "seed must be a whole number"),
        (["--seed=4294967296"], "seed must be at most 4294967295"),
        (["--batch=0"], "max_batch must be a whole number of at least 1"),
        (["--cfg_scale=nan"], "cfg_scale must be a finite number"),
        (["--temperature=-1"], "temperature must be 0"),
        (["--top_p=2"], "top_p must be above 0"),
        (["--size=16x15"], "multiples of 4 pixels"),
        (["dpg", "--prompts=texts", "--size=16x32"], "scored on square images, not on 16 x 32"),
        (["dpg", "--prompts=lines"], "are a folder of .txt files, and lines is a file"),
        (["dpg", "--prompts=texts", "--config=nowhere"], "Unknown config"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence_and_nothing_is_written(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("lines").write_text('{"tag": "a", "prompt": "dog"}\n')
    Path("bad").write_text('{"tag": "a", "prompt": "dog"}\n{"tag"')
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("dog")
    Path("full").mkdir()
    Path("full/cat.png").write_text("")
    before = tree(tmp_path)
    benchmark = arguments if arguments[0] == "dpg" else ["geneval", "--prompts=lines", *arguments]
    code, output, errors = run("--out=out", *benchmark)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1 and said in errors, errors
    assert tree(tmp_path) == before and not Path("out").exists()


def test_a_disk_that_is_full_is_one_sentence_and_the_next_run_goes_on(run, command, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("PIL.Image.Image.save", full)
        code, _, errors = run(*command, f"--out={tmp_path}")
    assert code == 2 and "No space left on device" in errors.splitlines()[-1]
    assert run(*command, f"--out={tmp_path}")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["images", "recipe.json"]


def test_few_of_many_unknown_words_are_told(run, tmp_path):
    (tmp_path / "lines").write_text("".join(f'{{"tag": "a", "prompt": "word{n} dog"}}\n' for n in range(9)))
    _, _, errors = run("geneval", f"--prompts={tmp_path / 'lines'}", f"--out={tmp_path / 'out'}")
    warnings = [line for line in errors.splitlines() if line.startswith("warning")]
    assert len(warnings) == 6 and "more like these" in warnings[-1]
