"""Folders of benchmarks: read back by the scorers' rules, whole after a run is stopped anywhere, mistakes refused.

Images here are noise; those of a model are in tests/cli/test_drawing_benchmarks.py.
"""

import json
import os
import shutil
from pathlib import Path

import benchmark_scorers
import numpy as np
import pytest

from ssd_jax import UserError
from ssd_jax.eval.benchmarks import BENCHMARKS
from ssd_jax.eval.benchmarks.base import SAMPLES
from ssd_jax.eval.benchmarks.folder import BenchmarkFolder
from ssd_jax.eval.benchmarks.seeds import seed_of
from ssd_jax.eval.benchmarks.shard import Shard

SIDE = 8
LINES = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}],
     "prompt": "a photo of two cats"},
    {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "a red apple, “noto”"},
]  # fmt: skip


@pytest.fixture
def prompts(tmp_path) -> dict[str, Path]:
    """A small prompts file of each benchmark."""
    lines = tmp_path / "metadata.jsonl"
    lines.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in LINES) + "\n\n", encoding="utf-8")
    folder = tmp_path / "prompts"
    folder.mkdir()
    for stem, text in {"10": "a dog\n", "2": "two cats", "COCOval2014000000319830": " a red\napple "}.items():
        (folder / f"{stem}.txt").write_text(text)
    (folder / ".10.txt").write_bytes(b"\xff what a file system left")
    (folder / "LICENSE").write_text("not a prompt")
    return {"geneval": lines, "dpg": folder}


@pytest.fixture(params=["geneval", "dpg"])
def begin(request, prompts, tmp_path):
    """begin(shard) -> a folder that is begun; the same one in every call of a test."""

    def make(shard: str = "1/1") -> BenchmarkFolder:
        benchmark = BENCHMARKS[request.param]
        items = benchmark.read(prompts[request.param])
        folder = BenchmarkFolder(tmp_path / "out", benchmark, items, Shard.parse(shard))
        folder.require_ours()
        with folder.held():
            folder.begin({"seed": 0})
        return folder

    return make


def noise(number: int, side: int = SIDE) -> np.ndarray:
    """The images of a prompt, uint8 [SAMPLES, side, side, 3]."""
    return np.random.default_rng(number).integers(0, 256, (SAMPLES, side, side, 3), np.uint8)


def missing(folder: BenchmarkFolder) -> list[int]:
    return folder.missing(folder.benchmark.image_size(SIDE, SIDE))


def fill(folder: BenchmarkFolder) -> None:
    """A whole run."""
    with folder.held():
        folder.begin({"seed": 0})
        for number in missing(folder):
            folder.put(number, noise(number))
        if not missing(folder):
            folder.end()


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder; folders without files as well."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in paths}


# -- what the scorers read


def test_geneval_reads_four_images_of_every_line_with_its_metadata(prompts, tmp_path):
    folder = BenchmarkFolder(
        tmp_path / "out", BENCHMARKS["geneval"], BENCHMARKS["geneval"].read(prompts["geneval"]), Shard()
    )
    fill(folder)
    found = benchmark_scorers.geneval(folder.images)
    names = [f"{number:05d}/samples/{sample:04d}.png" for number in range(3) for sample in range(SAMPLES)]
    assert [name for name, _, _ in found] == names
    for index, (_, metadata, image) in enumerate(found):
        assert metadata == LINES[index // SAMPLES]
        np.testing.assert_array_equal(image, noise(index // SAMPLES)[index % SAMPLES])
    read = {name for name, _, _ in found} | {f"{number:05d}/metadata.jsonl" for number in range(3)}
    assert {path.relative_to(folder.images).as_posix() for path in folder.images.rglob("*.*")} == read
    assert sorted(os.listdir(folder.out)) == ["images", "recipe.json"]


def test_dpg_reads_four_tiles_of_every_prompt_and_there_is_nothing_else(prompts, tmp_path):
    items = BENCHMARKS["dpg"].read(prompts["dpg"])
    assert [item.prompt for item in items] == ["a dog", "two cats", "a red\napple"]
    folder = BenchmarkFolder(tmp_path / "out", BENCHMARKS["dpg"], items, Shard())
    fill(folder)
    found = benchmark_scorers.dpg(folder.images, resolution=SIDE)
    assert list(sorted(found)) == ["10", "2", "COCOval2014000000319830"]
    for number, key in enumerate(sorted(found)):
        np.testing.assert_array_equal(found[key], noise(number))
    assert benchmark_scorers.pixels(folder.images / "2.png").shape == (2 * SIDE, 2 * SIDE, 3)
    assert sorted(os.listdir(folder.out)) == ["images", "recipe.json"]


def test_the_commands_name_the_images_and_put_results_beside_them():
    (evaluate, summary), (dpg,) = (
        BENCHMARKS[name].commands(Path("/a b/images"), height=384) for name in ("geneval", "dpg")
    )
    assert "evaluate_images.py '/a b/images' --outfile '/a b/results.jsonl'" in evaluate
    assert summary.endswith("summary_scores.py '/a b/results.jsonl'")
    assert "--image-root-path '/a b/images' --resolution 384 --pic-num 4" in dpg
    assert "--res-path '/a b/results.txt'" in dpg


def test_images_that_are_not_square_are_refused_for_dpg_alone():
    assert BENCHMARKS["geneval"].image_size(384, 512) == (384, 512)
    assert BENCHMARKS["dpg"].image_size(384, 384) == (768, 768)
    with pytest.raises(UserError, match="square images, not on 384 x 512"):
        BENCHMARKS["dpg"].image_size(384, 512)


# -- seeds and shards


def test_every_image_has_a_seed_of_its_own_also_in_runs_with_other_seeds():
    """The images of DPG-Bench, the larger one, are 4260 seeds in a row; where rows begin lies farther apart."""
    assert [seed_of(0, prompt, sample) for prompt in (0, 1) for sample in range(4)] == list(range(8))
    assert seed_of(7, 2, 3) == (7 * 2654435761 + 11) % 2**32
    starts = np.sort(np.array([seed_of(seed, 0, 0) for seed in range(100_000)]))
    apart = np.diff(np.append(starts, starts[0] + 2**32))
    assert apart.min() > 4 * 1065


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_the_prompts_without_a_rest(count):
    shards = [Shard.parse(f"{index}/{count}") for index in range(1, count + 1)]
    assert [sum(shard.has(prompt) for shard in shards) for prompt in range(20)] == [1] * 20
    assert len({str(shard) for shard in shards}) == count


@pytest.mark.parametrize("text", ["5/4", "0/4", "-1/4", "1/0", "1", "a/b", "1/2/3", "", "1.0/2", "１/２"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match="--shard is I/N with I from 1 to N"):
        Shard.parse(text)


# -- stopped and started again


def test_shards_leave_what_one_run_leaves(begin, tmp_path):
    fill(begin())
    whole = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for shard in ("3/3", "1/3", "2/3"):
        fill(begin(shard))
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("resumed", [["1/1"], ["2/2", "1/2"]], ids=["by-itself", "by-shards"])
def test_a_run_killed_at_any_point_goes_on_and_leaves_the_same(begin, tmp_path, monkeypatch, resumed):
    """`put` clears nothing up when it is stopped, like a process that is killed; half an image is on the disk then."""
    fill(begin())
    whole = tree(tmp_path / "out")
    calls = 0

    def stopping(at: int, work):
        def do(*args, **options):
            nonlocal calls
            calls += 1
            if calls > at:
                if work.__name__ == "save":
                    Path(args[1]).write_bytes(b"\x89PNG half")
                raise KeyboardInterrupt
            return work(*args, **options)

        return do

    for at in range(1000):
        shutil.rmtree(tmp_path / "out")
        folder, calls = begin(), 0
        with monkeypatch.context() as patched:
            for target, work in STEPS.items():
                patched.setattr(target, stopping(at, work))
            try:
                for number in missing(folder):
                    folder.put(number, noise(number))
            except KeyboardInterrupt:
                stopped = True
            else:
                stopped = False
        images = {f"images/{name}": content for name, content in tree(folder.images).items()}
        assert images.items() <= whole.items()  # whole, also before the next run
        for shard in resumed:
            fill(begin(shard))
        assert tree(tmp_path / "out") == whole
        if not stopped:
            break
    assert at == {"geneval": 18, "dpg": 6}[folder_kind(folder)]


STEPS = {
    "pathlib.Path.write_text": Path.write_text,
    "PIL.Image.Image.save": benchmark_scorers.Image.Image.save,
    "os.replace": os.replace,
}
"""What `put` does, step by step."""


def folder_kind(folder: BenchmarkFolder) -> str:
    return next(name for name, benchmark in BENCHMARKS.items() if benchmark is folder.benchmark)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "another size"])
def test_a_file_that_is_damaged_is_drawn_again(begin, tmp_path, damage):
    fill(folder := begin())
    whole = tree(tmp_path / "out")
    for name in folder.items[1].files:
        path = folder.images / name
        if damage == "gone":
            path.unlink()
        elif damage == "another size":
            benchmark_scorers.Image.new("RGB", (3, 4)).save(path, "PNG")
        else:
            path.write_bytes(path.read_bytes()[: 20 if damage == "cut" else 0])
        assert missing(folder) == [1]
        fill(folder)
        assert tree(tmp_path / "out") == whole
    assert folder.missing(folder.benchmark.image_size(2 * SIDE, 2 * SIDE)) == [0, 1, 2]


def test_two_runs_of_one_shard_do_not_go_on_side_by_side(begin):
    first, second, other = begin("1/2"), begin("1/2"), begin("2/2")
    with first.held():
        with pytest.raises(UserError, match="Another run is writing into the folder .*1-of-2"), second.held():
            pass
        with other.held():
            pass


def test_shards_that_end_at_the_same_time_do_not_trip_over_each_other(begin, tmp_path):
    first, second = begin("1/2"), begin("2/2")
    with second.held():
        with first.held():
            for folder in (first, second):
                for number in missing(folder):
                    folder.put(number, noise(number))
            first.end()
        second.end()
    assert sorted(os.listdir(tmp_path / "out")) == ["images", "recipe.json"]


# -- folders of others


def test_other_settings_are_refused_by_name(begin):
    folder = begin()
    with pytest.raises(UserError, match="out holds images with another seed; choose another --out"):
        folder.begin({"seed": 1})


@pytest.mark.parametrize("name", ["notes.txt", "images/00000/samples/0000.png", ".hidden"])
def test_a_folder_that_no_run_began_is_refused(begin, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match=f"has '{name.split('/')[0]}' in it and no recipe.json"):
        begin()
    assert tree(tmp_path / "out")[name] == b""


def test_results_of_a_scorer_may_lie_beside_the_images(begin, tmp_path):
    fill(begin())
    (tmp_path / "out" / "results.jsonl").write_text("{}")
    fill(begin())


@pytest.mark.parametrize("name", ["dpg-bench_20250101_results.txt", "00000/samples/0004.png", "99999/metadata.jsonl"])
def test_what_the_scorer_would_take_for_a_image_is_refused(begin, name):
    fill(folder := begin())
    path = folder.images / name
    if path.parent.name.isdigit() or path.parent.name == "samples":
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    with pytest.raises(UserError, match="in it, which is none of its images: move it away"):
        begin()
    assert path.exists()


def test_a_file_as_the_folder_is_refused(begin, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="--out must be a folder, and .*out is a file"):
        begin()


# -- prompts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no prompts in it"),
        ("\n\n", "has no prompts in it"),
        ('{"tag": "a", "prompt": "b"}\n\n{"tag": "a", "prompt": "b"}', "Line 2 of .* is no JSON object"),
        ('{"tag": "a", "prompt": "b"}\n{"tag": "a",', "Line 2 of .* is no JSON object: Expecting"),
        ('{"tag": "a", "prompt": "b"} {"tag": "a", "prompt": "b"}', "Line 1 of .* is no JSON object: Extra data"),
        ("[1]", r"Line 1 of .* is no JSON object: '\[1\]'"),
        ("[" * 100_000, "Line 1 of .* is no JSON object: it is nested too deeply"),
        ('{"prompt": "b"}', 'Line 1 of .* has no text under "tag"'),
        ('{"tag": "a", "prompt": " "}', 'Line 1 of .* has no text under "prompt"'),
        ('{"tag": "a", "prompt": ["b"]}', 'Line 1 of .* has no text under "prompt"'),
        ('{"tag": "a", "prompt": "b", "include": [{"class": "dog"}]}', 'Line 1 of .* list of objects .* "include"'),
        ('{"tag": "a", "prompt": "b", "exclude": {"class": 1}}', 'Line 1 of .* list of objects .* "exclude"'),
        ('{"tag": "a", "prompt": "\\ud800"}', "The prompt in line 1 must be Unicode text"),
    ],
)  # fmt: skip
def test_malformed_lines_of_geneval_are_named(tmp_path, text, said):
    (tmp_path / "lines").write_text(text)
    with pytest.raises(UserError, match=said):
        BENCHMARKS["geneval"].read(tmp_path / "lines")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no .txt files in it"),
        ({"a.json": "{}"}, "has no .txt files in it"),
        ({"a.txt": "dog", "b.txt": " \n"}, "The prompt .*b.txt is empty"),
        ({"a.txt": "dog", "A.txt": "cat"}, "A.txt and a.txt in .* would be one image"),
        ({"a.txt": "dog", "a.TXT": "cat"}, "a.TXT and a.txt in .* would be one image"),
        ({"a.1.txt": "dog"}, "a.1.txt cannot be scored: .* up to the first dot"),
        ({"a.txt": b"\xff"}, "a.txt is not UTF-8 text"),
    ],
)
def test_prompts_of_dpg_that_cannot_be_scored_are_named(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        BENCHMARKS["dpg"].read(tmp_path)


def test_a_path_of_the_other_kind_is_refused(prompts):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        BENCHMARKS["geneval"].read(prompts["dpg"])
    with pytest.raises(UserError, match="are a folder of .txt files, and .* is a file"):
        BENCHMARKS["dpg"].read(prompts["geneval"])
    for benchmark in BENCHMARKS.values():
        with pytest.raises(UserError, match="cannot be read: No such file or directory"):
            benchmark.read(Path("nowhere"))
