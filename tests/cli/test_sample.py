"""sample.py from end to end: images, grid and sidecar; the same command gives the same bytes; mistakes cost nothing.

Most of it runs in this process, through the same `entry.run` as the command line does.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from safetensors.numpy import load_file, save_file

import ssd_jax
from ssd_jax import UserError
from ssd_jax.cli import entry
from ssd_jax.prompts.lines import read_lines


@pytest.fixture(scope="module")
def load():
    """`ssd_jax.load` that reads a checkpoint once, so that a program serves all tests that draw as many images."""
    return functools.cache(ssd_jax.load)


@pytest.fixture
def run(monkeypatch, command_line, load):
    """run(*arguments) -> (exit code, standard output, standard error)."""
    monkeypatch.setattr("ssd_jax.pipeline.opening.load", load)
    return command_line


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# -- what it draws


def test_pictures_a_grid_and_a_line_for_each(run, random_folder, tmp_path):
    out = tmp_path / "new" / "folder"
    code, stdout, stderr = run(
        f"--weights={random_folder}", f"--out={out}", "--prompt=red apple", "--prompt=green heart", "--num_images=2"
    )
    assert code == 0 and stderr == ""
    assert sorted(contents(out)) == ["000.png", "001.png", "002.png", "003.png", "grid.png", "images.json"]
    pictures = [pixels(out / f"{index:03d}.png") for index in range(4)]
    assert {picture.shape for picture in pictures} == {(16, 16, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 4
    grid = pixels(out / "grid.png")
    for picture in pictures:  # each is somewhere in the grid
        assert any(
            np.array_equal(grid[y : y + 16, x : x + 16], picture)
            for y in range(grid.shape[0] - 15)
            for x in range(grid.shape[1] - 15)
        )
    lines = stdout.splitlines()
    assert len(lines) == 5
    for index, text in enumerate(["red apple", "red apple", "green heart", "green heart"]):
        assert f"{index:03d}.png" in lines[index] and "16 passes" in lines[index] and text in lines[index]


def test_without_prompts_it_draws_those_of_the_config(run, random_folder, tmp_path):
    code, stdout, _ = run(f"--weights={random_folder}", f"--out={tmp_path}", "--config=configs/emoji.py:tiny")
    assert code == 0
    assert len(json.loads((tmp_path / "images.json").read_text())["images"]) == 4


def test_prompts_come_from_the_command_line_and_then_from_the_file(run, random_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("green heart\n\n  dog  \n", encoding="utf-8")
    code, *_ = run(
        f"--weights={random_folder}", f"--out={tmp_path / 'out'}", "--prompt=red apple",
        f"--prompts_file={tmp_path / 'prompts.txt'}",
    )  # fmt: skip
    assert code == 0
    records = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [record["prompt"] for record in records] == ["red apple", "green heart", "dog"]


def test_the_sidecar_is_enough_to_draw_the_same_again(run, random_folder, tmp_path):
    code, *_ = run(
        f"--weights={random_folder}", f"--out={tmp_path}", "--prompt=red apple", "--prompt=dog", "--num_images=2",
        "--seed=7", "--cfg_scale=2", "--temperature=0.8", "--top_k=30", "--top_p=0.9", "--negative_prompt=cat",
        "--max_batch=3",
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "images.json").read_text())
    pipe = ssd_jax.load(record["model"]["weights"])
    assert {"weights": str(random_folder), **pipe.fingerprints} == record["model"]
    prompts = [image["prompt"] for image in record["images"]][:: record["options"]["num_images"]]
    out = pipe.generate(prompts, **record["options"])
    for index, image in enumerate(record["images"]):
        np.testing.assert_array_equal(pixels(tmp_path / image["file"]), np.asarray(out.images[index]))
        assert image["passes"] == out.passes[index] == 16
        assert (image["seed"], image["number"]) == (out.seeds[index], out.numbers[index])


def test_the_command_line_twice_and_the_compilation_cache(random_folder, run, tmp_path):
    """As a user runs it: own processes, nothing set but where caches go."""
    ours = (entry.CACHE_VARIABLE, entry.MIN_SECONDS_VARIABLE, "XLA_FLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def command(out: str) -> str:
        arguments = [f"--weights={random_folder}", f"--out={tmp_path / out}", "--prompt=red apple"]
        done = subprocess.run(
            [sys.executable, ROOT / "sample.py", *arguments],
            cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "16 passes" in done.stdout
        return done.stdout

    command("first")
    assert any((tmp_path / "cache" / "ssd_jax").rglob("*-cache"))
    command("second")
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    records = [json.loads(files.pop("images.json")) for files in (first, second)]
    assert first == second
    assert records[1]["compile_seconds"] < 0.7 * records[0]["compile_seconds"]
    for record in records:  # speeds are all that differs
        del record["seconds"], record["compile_seconds"]
    assert records[0] == records[1]
    assert pixels(tmp_path / "first" / "000.png").shape == (16, 16, 3)


def test_the_sidecar_tells_the_models_own_guidance_and_filter(run, random_folder, tmp_path, pipe):
    assert run(f"--weights={random_folder}", f"--out={tmp_path}", "--prompt=red apple")[0] == 0
    options = json.loads((tmp_path / "images.json").read_text())["options"]
    assert (options["cfg_scale"], options["top_k"]) == (pipe.config.cfg_scale, pipe.config.top_k)


def test_progress_is_a_bar_on_standard_error_and_the_images_are_the_same(run, random_folder, tmp_path):
    options = [f"--weights={random_folder}", "--prompt=red apple", "--num_images=3", "--max_batch=2"]
    code, _, error = run(*options, f"--out={tmp_path / 'shown'}", "--progress")
    assert code == 0 and "48/48" in error and "passes=16" in error
    _, _, silent = run(*options, f"--out={tmp_path / 'plain'}")
    assert "drawing" not in silent
    for number in range(3):
        name = f"{number:03d}.png"
        assert np.array_equal(pixels(tmp_path / "shown" / name), pixels(tmp_path / "plain" / name))


def test_a_seed_changes_the_picture_and_neighbours_do_not(run, random_folder, tmp_path):
    for out, flags in {
        "alone": ["--prompt=red apple"],
        "together": ["--prompt=dog", "--prompt=red apple"],
        "other": ["--prompt=red apple", "--seed=1"],
    }.items():
        assert run(f"--weights={random_folder}", f"--out={tmp_path / out}", *flags)[0] == 0
    alone = contents(tmp_path / "alone")["000.png"]
    assert contents(tmp_path / "together")["001.png"] == alone
    assert contents(tmp_path / "other")["000.png"] != alone


def test_unknown_words_only_warn(run, random_folder, tmp_path):
    code, _, stderr = run(f"--weights={random_folder}", f"--out={tmp_path}", "--prompt=red zeppelin")
    assert code == 0 and (tmp_path / "000.png").is_file()
    assert stderr.startswith("warning: ") and stderr.count("\n") == 1 and "zeppelin" in stderr


def test_a_prompt_without_any_readable_word_warns(run, random_folder, tmp_path):
    code, _, stderr = run(f"--weights={random_folder}", f"--out={tmp_path}", "--prompt=\u8d64\u3044\u308a\u3093\u3054")
    assert code == 0
    assert stderr.startswith("warning: ") and "\u8d64" in stderr


# -- mistakes: one sentence, exit code 2, nothing written


def refused(result: tuple[int, str, str], out: Path, *words: str) -> None:
    code, stdout, stderr = result
    assert code == 2 and stdout == "", stderr
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    for word in words:
        assert word in stderr, stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--decoder=fast"], ["'fast'", "ar"]),
        (["--config=configs/nope.py"], ["'configs/nope.py'", "configs/emoji.py"]),
        (["--config=configs/emoji.py:big"], ["'big'", "tiny"]),
        (["--num_images=0"], ["num_images", "0"]),
        (["--temperature=-1"], ["temperature", "-1"]),
        (["--temperature=nan"], ["temperature", "nan"]),
        (["--cfg_scale=inf"], ["cfg_scale", "inf"]),
        (["--top_k=-5"], ["top_k", "-5"]),
        (["--cfg_scale=1e38"], ["cfg_scale", "1e+38"]),
        (["--cfg_scale=1e39"], ["cfg_scale", "1e+39", "float32"]),
        (["--temperature=1e-40"], ["temperature", "0.001", "1e-40"]),
        (["--temperature=1e38"], ["temperature", "1000", "1e+38"]),
        (["--top_p=2"], ["top_p", "2"]),
        (["--top_p=1e-38"], ["top_p", "1e-38"]),
        (["--top_p=1e-50"], ["top_p", "1e-50"]),
        (["--max_batch=0"], ["max_batch", "0"]),
        (["--max_batch=0", "--compare=ar"], ["max_batch", "0"]),
        (["--max_batch=0", "--plan"], ["max_batch", "0"]),
        (["--cfg_scale=nan", "--plan"], ["cfg_scale", "nan"]),
        (["--seed=-1"], ["seed", "-1"]),
        (["--seed=4294967296"], ["seed", "4294967296"]),
        (["--prompt=dog", "--prompt=\udcff"], ["prompt", "Unicode"]),
        (["--negative_prompt=\udcff"], ["negative_prompt", "Unicode"]),
        (["--prompt=" + "red " * 65], ["65", "64"]),
        (["--prompts_file=/nowhere/prompts.txt"], ["/nowhere/prompts.txt"]),
        (["--prompts_file=/"], ["prompts file"]),
        (["--prompts_file=/dev/null"], ["/dev/null", "no prompts"]),
        (["--prompt", "x" * 20_001], ["20000 letters", "20001"]),
        (["--negative_prompt", "x" * 20_001], ["negative_prompt", "20000 letters", "20001"]),
        (["--weights=/nowhere"], ["/nowhere", "checkpoint"]),
        (["--progress", "--compare=ar"], ["--compare", "--progress"]),
        (["--progress", "--coordinator=auto", "--mesh=data:1"], ["several processes", "--progress"]),
    ],
    ids=lambda value: value[0][:40],
)
def test_a_bad_option_is_refused(run, random_folder, tmp_path, flags, words):
    out = tmp_path / "out"
    refused(run(f"--weights={random_folder}", f"--out={out}", "--prompt=red apple", *flags), out, *words)


def test_a_malformed_command_line_ends_with_2(run):
    code, stdout, stderr = run("--num_images=many")
    assert code == 2 and stdout == "" and "--num_images" in stderr and "Traceback" not in stderr


def test_an_empty_prompts_file_is_refused(run, random_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n  \n")
    flags = f"--weights={random_folder}", f"--out={tmp_path / 'out'}", f"--prompts_file={tmp_path / 'prompts.txt'}"
    refused(run(*flags), tmp_path / "out", "prompts.txt", "no prompts")


def test_a_prompts_file_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "prompts.txt").open("wb") as file:
        file.truncate(2**40)  # a hole: no such file is written
    with pytest.raises(UserError, match="has 1099511627776 bytes; at most 268435456 are read"):
        read_lines(tmp_path / "prompts.txt")


def test_a_prompts_file_that_is_not_utf8_is_refused(run, random_folder, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("dog\nrote Äpfel\n".encode("latin-1"))
    flags = f"--weights={random_folder}", f"--out={tmp_path / 'out'}", f"--prompts_file={tmp_path / 'prompts.txt'}"
    refused(run(*flags), tmp_path / "out", "prompts.txt", "UTF-8", "byte 9")


def test_an_output_folder_that_cannot_be_made_is_refused(run, random_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"  # file permissions would not stop root
    refused(run(f"--weights={random_folder}", f"--out={out}", "--prompt=red apple"), out, str(out))
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_output_that_is_a_file_is_refused(run, random_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, stderr = run(f"--weights={random_folder}", f"--out={tmp_path / 'file'}", "--prompt=red apple")
    assert code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_refused_command_leaves_earlier_pictures_alone(run, random_folder, tmp_path):
    assert run(f"--weights={random_folder}", f"--out={tmp_path / 'out'}", "--prompt=red apple")[0] == 0
    before = contents(tmp_path / "out")
    assert run(f"--weights={random_folder}", f"--out={tmp_path / 'out'}", "--prompt=dog", "--top_k=-1")[0] == 2
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vq.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(run, folder, tmp_path, name):
    (folder / name).unlink()
    refused(run(f"--weights={folder}", f"--out={tmp_path / 'out'}", "--prompt=dog"), tmp_path / "out", name)


@pytest.mark.parametrize("name", ["model.safetensors", "vq.safetensors", "tokenizer.json", "config.json"])
def test_a_truncated_file_is_named(run, folder, tmp_path, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    refused(run(f"--weights={folder}", f"--out={tmp_path / 'out'}", "--prompt=dog"), tmp_path / "out", name)


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["block_0.mlp.up"]
    save_file(tensors, folder / "model.safetensors")


def with_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["block_0.mlp.up"] = tensors["block_0.mlp.up"][:, :-1].copy()
    save_file(tensors, folder / "model.safetensors")


def with_a_tensor_too_many(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "block_9.mlp.up": tensors["block_0.mlp.up"]}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "tensor"),
    [
        (without_a_tensor, "block_0.mlp.up"),
        (with_another_shape, "block_0.mlp.up"),
        (with_a_tensor_too_many, "block_9.mlp.up"),
    ],
)
def test_weights_that_do_not_fit_name_the_tensor(run, folder, tmp_path, damage, tensor):
    damage(folder)
    refused(
        run(f"--weights={folder}", f"--out={tmp_path / 'out'}", "--prompt=dog"),
        tmp_path / "out", "model.safetensors", repr(tensor),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["model"].update(width="wide"), ["'width'", "'wide'"]),
        (lambda config: config["model"].update(depth=3), ["'depth'", "layers"]),
        (lambda config: config["model"].pop("vocab_size"), ["'vocab_size'", "missing"]),
        (lambda config: config["model"].update(kv_heads=3), ["kv_heads"]),
        (lambda config: config["model"].update(norm_eps=-1.0), ["'norm_eps'"]),
        (lambda config: config["vq"].update(groups=3), ["groups"]),
        (lambda config: config.pop("vq"), ["'vq'"]),
        (lambda config: config.update(format="other"), ["format"]),
        (lambda config: config.clear(), ["format"]),
    ],
)
def test_a_malformed_config_is_refused(run, folder, tmp_path, change, words):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    flags = f"--weights={folder}", f"--out={tmp_path / 'out'}", "--prompt=dog"
    refused(run(*flags), tmp_path / "out", "config.json", *words)


def test_a_missing_tokenizer_or_vq_matters_only_when_it_is_used(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vq.safetensors").unlink()
    pipe = ssd_jax.load(folder)
    logits = pipe.visual_logits(np.array([[2, 5, 3]]), np.zeros((1, 16), np.int32))
    assert logits.shape == (1, 16, 64)
    with pytest.raises(ssd_jax.UserError, match=r"tokenizer\.json"):
        pipe.generate(["dog"])
    with pytest.raises(ssd_jax.UserError, match=r"vq\.safetensors"):
        pipe.decode(np.zeros((1, 4, 4), np.int32))


def test_an_image_tokenizer_with_other_codes_than_the_backbone_is_refused_when_it_is_used(folder):
    config = json.loads((folder / "config.json").read_text())
    config["vq"]["codebook_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    pipe = ssd_jax.load(folder)
    for use in (
        lambda: pipe.generate(["dog"]),
        lambda: pipe.decode(np.zeros((1, 4, 4), np.int32)),
        lambda: pipe.encode(np.zeros((1, 16, 16, 3), np.uint8)),
    ):
        with pytest.raises(ssd_jax.UserError, match="draws 64 visual codes, but the image tokenizer has 32"):
            use()


def test_teacher_forced_logits_ignore_padding(pipe):
    codes = np.random.default_rng(0).integers(0, 64, (1, 16)).astype(np.int32)
    expected = pipe.visual_logits([[2, 5, 3]], codes)
    ids, mask = [[0, 0, 2, 5, 3]], [[False, False, True, True, True]]
    np.testing.assert_allclose(pipe.visual_logits(ids, codes, prompt_mask=mask), expected, atol=2e-5)
    with pytest.raises(ssd_jax.UserError, match="16 codes, not 15"):
        pipe.visual_logits([[2, 5, 3]], codes[:, :15])
    with pytest.raises(ssd_jax.UserError, match=r"codes must lie in 0\.\.63, but go from 64 to 64"):
        pipe.visual_logits([[2, 5, 3]], np.full((1, 16), 64))
    with pytest.raises(ssd_jax.UserError, match=r"prompt_ids must lie in 0\.\."):
        pipe.visual_logits([[2, -5, 3]], codes)


def test_a_bare_name_means_the_bundle_and_a_path_a_folder(random_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").symlink_to(random_folder)
    assert ssd_jax.load("emoji").config.rows == 16
    for path in ("./emoji", Path("emoji"), tmp_path / "emoji"):
        assert ssd_jax.load(path).config.rows == 4
