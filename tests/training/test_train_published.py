"""train.py with the configs of the published backbones: draft heads for a checkpoint that one has.

The models are small and random, in the folders that transformers makes of them (tests/published_folders.py).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from processes import run_together, two_processes
from published_folders import SIZE, published_folder
from safetensors.numpy import load_file

import ssd_jax
from ssd_jax.cli import entry
from ssd_jax.data.batches import Dropped
from ssd_jax.data.image_folder import read_folder, read_picture
from ssd_jax.data.prompted_codes import PromptedCodes
from ssd_jax.data.self_distillation import draw_missing, jobs, picture_seed
from ssd_jax.data.token_shards import TokenShards
from ssd_jax.errors import UserError
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.models.draft_heads import init_heads
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.recipes import published
from ssd_jax.recipes.published_spec import PublishedSpec
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.draft_loss import Drafting, SmoothL1, mean_per_offset
from ssd_jax.training.head_training import head_matrices
from ssd_jax.training.metrics import read_log
from ssd_jax.training.spec import PromptedSpec
from ssd_jax.training.step import init_state, make_optimizer, make_step

pytestmark = pytest.mark.usefixtures("standard_promotion")

PROMPTS = [f"{size} {colour} {thing}" for size in ("big", "small") for colour in ("red", "green", "blue")
           for thing in ("cat", "dog", "house", "tree")]  # fmt: skip
PER_PROMPT, PER_FILE = 2, 4


def tiny(name: str, folder: Path, **changes):
    """The `:tiny` configuration with everything it writes in `folder`; keys of changes may have dots."""
    config = entry.read_config(f"configs/{name}.py:tiny")
    places = dict(data=str(folder / "data"), workdir=str(folder / "runs"))
    config.update_from_flattened_dict({**places, **changes})
    return config


def inputs(weights: Path, prompts: Path) -> dict:
    options = dict(weights=str(weights), prompts_file=str(prompts))
    return options | dict(pictures_per_prompt=PER_PROMPT, pictures_per_file=PER_FILE)


def command(weights: Path, prompts: Path, folder: Path, *flags: str) -> list[str]:
    options = inputs(weights, prompts) | dict(data=folder / "data", workdir=folder / "runs")
    given = [f"--config.{name}={value}" for name, value in options.items()]
    return [sys.executable, "train.py", "--config=configs/emu3.py:tiny", *given, *flags]


def train(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments, **options), cwd=ROOT, text=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def emu3(tmp_path_factory) -> Path:
    return published_folder("emu3", tmp_path_factory.mktemp("emu3") / "checkpoint")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(emu3, prompts, tmp_path_factory) -> Path:
    """The folder of a whole run: data/ and runs/. Its standard output is in out.txt."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(emu3, prompts, folder)
    assert done.returncode == 0, done.stderr
    (folder / "out.txt").write_text(done.stdout)
    return folder


# -- a whole run, on images that the backbone draws


def test_the_loss_of_the_heads_falls(trained):
    for part in ("heads", "overlap"):
        lines = read_log(trained / "runs" / part / "metrics.jsonl")
        heldout = [line["heldout"] for line in lines if "heldout" in line]
        assert len(heldout) == 3 and heldout[-1] < heldout[0], part


def test_the_report_has_the_overlap_before_and_after_of_every_offset(trained):
    lines = (trained / "runs" / "report.md").read_text().splitlines()
    table = lines[lines.index("| overlap | untrained | Smooth L1 | Smooth L1, then overlap |") + 2 :]
    rows = {row.split(" | ")[0].strip("| "): [float(x) for x in row.strip("| ").split(" | ")[1:]] for row in table}
    assert list(rows) == ["right+1", "right+2", "right+3", "right+4", "right+5", "down+1", "down+2"]
    means = np.mean([values for values in rows.values()], axis=0)
    assert means[2] > means[0]
    assert "\n".join(lines) in (trained / "out.txt").read_text()


def test_the_exported_heads_belong_to_the_checkpoint_and_draw(emu3, trained, tmp_path):
    export = trained / "runs" / "export"
    assert sorted(path.name for path in export.iterdir()) == ["README.md", "heads.safetensors"]
    pipe = ssd_jax.load(emu3, heads=export)
    assert (pipe.heads.horizontal, pipe.heads.vertical) == (5, 2)
    out = pipe.generate(PROMPTS[:1], decoder="ssd")
    assert out.passes.tolist() == [1 + 2 + 3 * 3]
    with pytest.raises(UserError, match="another backbone"):
        ssd_jax.load(published_folder("emu3", tmp_path / "other", intermediate_size=64), heads=export)


def test_every_picture_is_the_one_its_prompt_and_seed_give(emu3, trained):
    """Alone, with another lossless decoder, an image is the same: what else was drawn does not matter."""
    pipe, found = ssd_jax.load(emu3), jobs(len(PROMPTS), PER_PROMPT)
    for number in (0, 1, 30, 47):
        prompt, image = found[number]
        out = pipe.generate([PROMPTS[prompt]], decoder="ar", seed=picture_seed(0, prompt, image), pixels=False)
        file = load_file(trained / "data" / f"tokens-{number // PER_FILE:05d}.safetensors")
        np.testing.assert_array_equal(file["codes"][number % PER_FILE], out.tokens[0])
        assert file["prompts"][number % PER_FILE] == prompt and out.images == []


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_killing_it_while_it_draws_changes_nothing(emu3, prompts, trained, tmp_path):
    def done() -> int:
        return len(list((tmp_path / "data").glob("tokens-*.safetensors")))

    process = subprocess.Popen(
        command(emu3, prompts, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while done() < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the process ended before it could be killed"
    whole = len(PROMPTS) * PER_PROMPT // PER_FILE
    assert 2 <= done() < whole
    before = files(tmp_path / "data")
    again = train(emu3, prompts, tmp_path, "--config.heads.steps=4", "--config.overlap.steps=0")
    assert again.returncode == 0, again.stderr
    after = files(tmp_path / "data")
    assert before.items() <= after.items() and len(after) == whole + 1
    assert after == files(trained / "data")


def same_losses(one: Path, other: Path, rel: float) -> None:
    logs = [read_log(folder / "runs" / "heads" / "metrics.jsonl") for folder in (one, other)]
    for line, again in zip(*logs, strict=True):
        for key in line.keys() - {"images_per_second"}:
            assert again[key] == pytest.approx(line[key], rel=rel), key


def test_in_two_processes_the_heads_learn_the_same_and_a_stopped_training_goes_on(emu3, prompts, trained, tmp_path):
    """On two times two devices the losses are those of one device, but for rounding. From the state that both wrote
    after step 8, one process makes the last four steps again, on one device."""
    shutil.copytree(trained / "data", tmp_path / "data")
    (tmp_path / "data" / "tokens-00003.safetensors").unlink()
    changes, flags = {"heads.steps": 12, "overlap.steps": 0}, two_processes()
    given = [f"--config.{name}={value}" for name, value in changes.items()]
    mesh = [[flag.replace("--mesh", "--config.mesh") for flag in process] for process in flags]
    codes, said = run_together(*(command(emu3, prompts, tmp_path, *given, *process)[1:] for process in mesh))
    assert codes == [0, 0], said[0][1][-2000:] + said[1][1][-2000:]
    assert ["The draft heads are in" in output for output, _ in said] == [True, False]  # only the first talks
    assert files(tmp_path / "data") == files(trained / "data")
    same_losses(trained, tmp_path, 1e-3)
    heads = tmp_path / "runs" / "export" / "heads.safetensors"
    before = load_file(heads)
    heads.unlink()
    shutil.rmtree(tmp_path / "runs" / "heads" / "state" / "12")
    changes |= {"weights": str(emu3), "prompts_file": str(prompts)}
    changes |= {"pictures_per_prompt": PER_PROMPT, "pictures_per_file": PER_FILE}
    published.run(PublishedSpec.parse(tiny("emu3", tmp_path, **changes)))
    same_losses(trained, tmp_path, 1e-3)
    for name, values in load_file(heads).items():
        np.testing.assert_allclose(values.astype(np.float32), before[name].astype(np.float32), rtol=0.02, atol=1e-4)


def test_a_file_cut_short_is_drawn_again(tmp_path):
    """Only a whole file has its name; what a kill leaves under another is no file of the cache."""
    made = jobs(5, 1)
    drawn = []

    def draw(prompts, seeds):
        drawn.extend(prompts)
        return np.array(prompts, np.int32).reshape(-1, 1, 1) * np.ones((1, 2, 3), np.int32)

    shards = TokenShards(tmp_path, made[:, 0], Grid(2, 3), 8, 2, {"prompts": "a"})
    draw_missing(shards, made, 0, 4, draw)
    assert drawn == [0, 1, 2, 3, 4] and shards.read()[:, 0].tolist() == drawn
    os.rename(shards.path(1), tmp_path / ".tokens-00001.77.tmp.safetensors")
    drawn.clear()
    draw_missing(shards, made, 0, 4, draw)
    assert drawn == [2, 3] and shards.read()[:, 0].tolist() == [0, 1, 2, 3, 4]
    shards.path(0).write_bytes(shards.path(1).read_bytes())
    with pytest.raises(UserError, match="tokens-00000.safetensors does not hold"):
        shards.read()


# -- the other backbones, on a folder of images


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twelve images of two colours in four sizes, captions beside them."""
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        name = f"{number}.png" if number % 2 else f"more/{number}.jpg"
        pixels = np.tile(rng.integers(0, 256, (1, 2, 3), np.uint8).repeat(10, axis=1), (10 + number % 4, 1, 1))
        Image.fromarray(pixels).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"picture\n number {number}\n")
    return folder


@pytest.mark.parametrize("name", ["lumina_mgpt", "janus_pro"])
def test_heads_learn_from_a_folder_of_pictures(pictures, tmp_path, name):
    weights = published_folder(name, tmp_path / "checkpoint")
    changes = {"weights": str(weights), "images": str(pictures), "size": SIZE[name], "overlap.steps": 0}
    export = published.run(PublishedSpec.parse(tiny(name, tmp_path, **changes)))
    lines = read_log(tmp_path / "runs" / "heads" / "metrics.jsonl")
    heldout = [line["heldout"] for line in lines if "heldout" in line]
    assert heldout[-1] < heldout[0]
    pipe, found = ssd_jax.load(weights, heads=export), read_folder(pictures)
    codes = load_file(tmp_path / "data" / "tokens-00001.safetensors")["codes"]
    side = 4 * pipe.vq_config.stride
    images = np.stack([read_picture(pictures / picture.name, side, side) for picture in found[4:8]])
    np.testing.assert_array_equal(codes, pipe.encode(images))


def test_captions_are_those_beside_the_pictures_or_those_of_the_list(pictures, tmp_path):
    found = read_folder(pictures)
    assert [picture.name for picture in found[:2]] == ["1.png", "11.png"] and found[0].caption == "picture number 1"
    for name in ("a.png", "b.png"):
        Image.new("RGB", (3, 3)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("not this")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "caption": "this"}\n\n')
    assert [(picture.name, picture.caption) for picture in read_folder(tmp_path)] == [("a.png", "this")]


def test_a_picture_of_too_many_pixels_is_refused_from_its_header(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="large.png has 9000 x 9000 pixels; at most 80000000"):
        read_picture(tmp_path / "large.png", 8, 8)


def test_a_picture_is_cut_in_its_middle_and_stands_on_white(tmp_path):
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[:, 2:6] = [200, 100, 50, 255]
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.png", 4, 4), pixels[:, 2:6, :3])
    assert (read_picture(tmp_path / "wide.png", 4, 8)[:, 0] == 255).all()


def test_batches_go_through_all_pictures_and_never_through_those_held_out():
    prompts = np.repeat(np.arange(6), 2)
    codes = np.arange(12)[:, None]
    frames = [([1, 10 + i, 2], [1, 2]) for i in range(6)]
    source = PromptedCodes(codes, prompts, frames, 0, heldout=3)
    heldout = source.heldout(100)
    assert len(heldout) == 4 and len(set(prompts[heldout])) == 2  # both images of a prompt, or none
    batches = [source.batch(4, Dropped(0.3), 7, step) for step in range(40)]
    seen = np.concatenate([batch[2][:, 0] for batch in batches])
    assert set(seen) == set(range(12)) - set(heldout)
    assert all(len(set(seen[turn : turn + 8])) == 8 for turn in range(0, 160, 8))
    told = np.concatenate([ids[:, -2] for ids, _, _ in batches])
    assert set(told[told != 1] - 10 == prompts[seen[told != 1]]) == {True}
    assert 0.15 < np.mean(told == 1) < 0.45
    ids, mask, given = source.guided(heldout)
    assert ids.shape[0] == mask.shape[0] == 2 * len(given) and (ids[len(given) :, -2] == 1).all()


# -- the real sizes


def test_a_training_step_of_emu3_takes_the_memory_that_its_config_says():
    """Compiled from shapes alone, for a CPU: no weights are there, and nothing runs."""
    config = entry.read_config("configs/emu3.py")
    model = from_dict(ModelConfig, config.model.to_dict(), "model")
    heads = from_dict(HeadsConfig, config.heads_model.to_dict(), "heads_model")
    stage, grid = PromptedSpec.parse(config.heads.to_dict(), "heads"), Grid(model.rows, model.cols)
    drafting = Drafting(model, heads, grid, stage.matmul, config.window)
    values = partial(mean_per_offset, SmoothL1(), drafting)
    optimizer = make_optimizer(stage, head_matrices)
    state = jax.eval_shape(lambda: init_state(init_heads(drafting.drafter, jax.random.key(0)), optimizer))
    frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), abstract_backbone(model))
    rows = [((stage.batch, 64), jnp.int32), ((stage.batch, 64), bool), ((stage.batch, grid.size), jnp.int32)]
    step = make_step(lambda p, f, batch, key: (values(p, f, *batch).mean(), {}), optimizer, 0, None, stage.accumulation)
    used = step.lower(state, frozen, tuple(jax.ShapeDtypeStruct(*row) for row in rows)).compile().memory_analysis()
    assert used.argument_size_in_bytes + used.temp_size_in_bytes < 38.5e9


# -- mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": ""}, ["--config.weights=DIR"]),
        ({"prompts_file": ""}, ["--config.images=DIR", "--config.prompts_file=FILE"]),
        ({"prompts_file": "nowhere.txt"}, ["nowhere.txt"]),
        ({"decoder": "gsd"}, ["gsd", "lossless", "jacobi-above", "ar"]),
        ({"decoder": "ssd"}, ["ssd", "lossless", "jacobi-above", "ar"]),
        ({"decoder": "ssd-exact"}, ["draft heads"]),
        ({"heads.accumulation": 3}, ["config.heads.batch", "4", "3"]),
        ({"overlap.matmul": "int4"}, ["config.overlap.matmul", "int4"]),
        ({"heldout": 24}, ["24 images", "config.heldout"]),
        ({"seed": -1}, ["config.seed"]),
        ({"prompts_file": "", "images": "nowhere"}, ["'nowhere'"]),
        ({"images": "nowhere"}, ["either", "--config.images=DIR"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(emu3, prompts, tmp_path, changes, words):
    config = tiny("emu3", tmp_path, **{"weights": str(emu3), "prompts_file": str(prompts), **changes})
    with pytest.raises(UserError) as caught:
        published.run(PublishedSpec.parse(config))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (None, ["0.png", "has no caption", "0.txt", "captions.jsonl"]),
        ('{"file": "../0.png", "caption": "x"}', ["captions.jsonl:1", "'../0.png'"]),
        ('{"file": "/etc/passwd", "caption": "x"}', ["captions.jsonl:1", "'/etc/passwd'"]),
        ('{"file": "1.png", "caption": "x"}', ["1.png", "No such file"]),
        ('{"file": "0.png"}', ["captions.jsonl:1", '"caption"']),
        ('{"file": "0.png", "caption": " "}', ["0.png", "has no caption"]),
    ],
)
def test_a_folder_that_does_not_tell_what_is_on_its_pictures(tmp_path, line, words):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    if line is not None:
        (tmp_path / "captions.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        read_folder(tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\nnothing", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n"])
def test_a_picture_that_is_damaged_or_something_else_is_named(tmp_path, content):
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(UserError, match="0.png is damaged or not an image"):
        read_picture(tmp_path / "0.png", 8, 8)


def test_a_cache_drawn_with_other_options_is_one_sentence_and_exit_code_2(emu3, prompts, trained):
    done = train(emu3, prompts, trained, "--config.decoder=ar", "--config.seed=3")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in ["data", "tokens", "seed", "decoder", "config.data"]), done.stderr


def test_a_cache_of_another_backbone_is_refused(trained, prompts, tmp_path):
    other = published_folder("emu3", tmp_path / "checkpoint", intermediate_size=64)
    changes = inputs(other, prompts) | {"data": str(trained / "data")}
    with pytest.raises(UserError, match="tokens made with another backbone"):
        published.run(PublishedSpec.parse(tiny("emu3", tmp_path, **changes)))
    assert json.loads((trained / "data" / "manifest.json").read_text())["pictures"] == len(PROMPTS) * PER_PROMPT
