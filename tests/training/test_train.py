"""train.py from end to end: the files of a run, that killing it changes nothing, how user errors are reported."""

import dataclasses
import itertools
import json
import os
import runpy
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
import optax
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

import ssd_jax
from ssd_jax.data import emoji
from ssd_jax.lock import locked
from ssd_jax.models.config import VQConfig
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.recipes import emoji as emoji_recipe
from ssd_jax.recipes.emoji_report import training_minutes
from ssd_jax.recipes.emoji_spec import EmojiSpec
from ssd_jax.training.backbone import backbone_task, corrupt
from ssd_jax.training.head_training import digest
from ssd_jax.training.loop import Task, fit
from ssd_jax.training.metrics import MetricLog, read_log
from ssd_jax.training.spec import StageSpec, TokenizerSpec
from ssd_jax.training.step import init_state, make_optimizer, make_step, schedule
from ssd_jax.training.tokenizer import tokenizer_task
from ssd_jax.weights.load import read_config
from ssd_jax.weights.part_file import HEADS_FILE
from ssd_jax.weights.store import WeightsError
from ssd_jax.weights.tensors import read_tensors

BACKBONES = ("backbone", "continued-1", "continued-2")  # the phases of the backbone's stage
STAGES = ("tokenizer", *BACKBONES, "heads", "overlap")  # and those of the draft heads'
STEPS = 12  # of every stage of `:tiny`
EVERY, LOGGED = 6, 4  # steps between states, and between lines of the log
EXPORTED = {"config.json", "tokenizer.json", "vq.safetensors", "model.safetensors", "heads.safetensors", "README.md"}


def numbers(path: Path) -> list[dict]:
    """A log without the speeds."""
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in read_log(path)]


# -- a whole run


@pytest.fixture(scope="module")
def train():
    """train(*flags) -> the finished process of `python train.py --config=configs/emoji.py:tiny *flags`."""

    def run(*flags) -> subprocess.CompletedProcess:
        command = [sys.executable, "train.py", "--config=configs/emoji.py:tiny", *map(str, flags)]
        return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)

    return run


@pytest.fixture(scope="module")
def tiny_run(train, tmp_path_factory) -> Path:
    """The folder of one whole `:tiny` training: data/, and runs/ with the stages' folders and export/."""
    folder = tmp_path_factory.mktemp("tiny")
    done = train(f"--config.workdir={folder / 'runs'}", f"--config.data={folder / 'data'}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tiny_export(tiny_run) -> Path:
    """The checkpoint folder of `tiny_run`."""
    return tiny_run / "runs" / "export"


def test_a_run_exports_a_complete_checkpoint_and_nothing_else(tiny_export):
    assert {path.name for path in tiny_export.iterdir()} == EXPORTED
    assert json.loads((tiny_export / "config.json").read_text())["model"]["rows"] == 16


def test_the_exported_checkpoint_draws(tiny_export):
    out = ssd_jax.load(tiny_export).generate(["red apple, twemoji"])
    assert out.tokens.shape == (1, 16, 16) and out.passes.tolist() == [256]
    assert out.images[0].size == (128, 128)


def test_the_report_follows_the_heads_through_their_training(tiny_run):
    heads = json.loads((tiny_run / "runs" / "report.json").read_text())["heads"]
    for measure in ("Smooth L1", "overlap"):
        untrained, first, both = heads[measure].values()
        assert list(untrained) == list(first) == list(both) and len(both) == 7
    mean = {state: np.mean(list(values.values())) for state, values in heads["overlap"].items()}
    assert mean["untrained"] < mean["Smooth L1"] < mean["Smooth L1, then overlap"]
    assert heads["Smooth L1"]["Smooth L1"]["down+1"] < heads["Smooth L1"]["untrained"]["down+1"]


def test_the_heads_belong_to_the_backbone(tiny_export):
    heads = HEADS_FILE.read_config(tiny_export / "heads.safetensors", tiny_export / "model.safetensors")
    tensors = load_file(tiny_export / "heads.safetensors")
    vertical = {name for name in tensors if name in ("see", "use")}
    for name, tensor in tensors.items():
        assert len(tensor) == (heads.vertical if name in vertical else len(heads.offsets)), name
    assert all(np.any(tensors[name]) for name in ("down", "use"))  # they start at zero


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_a_log_a_curve_and_its_newest_states(tiny_run, stage):
    folder = tiny_run / "runs" / stage
    lines = numbers(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(LOGGED, STEPS + 1, LOGGED))
    assert [line["step"] for line in lines if "heldout" in line] == list(range(EVERY, STEPS + 1, EVERY))
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert (folder / "loss.png").stat().st_size > 1000
    assert max(int(path.name) for path in (folder / "state").iterdir()) == STEPS
    if stage in ("tokenizer", *BACKBONES):
        assert (folder / f"sample_{STEPS:06d}.png").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_training_gets_better(tiny_run, stage):
    heldout = [line["heldout"] for line in numbers(tiny_run / "runs" / stage / "metrics.jsonl") if "heldout" in line]
    assert heldout[-1] < heldout[0]


def test_every_later_phase_of_the_backbone_goes_on_from_the_one_before(tiny_run, tiny_export):
    for before, after in itertools.pairwise(tiny_run / "runs" / phase for phase in BACKBONES):
        assert json.loads((after / "origin.json").read_text())["start"] == digest(state(before)["params"])
        assert numbers(before / "metrics.jsonl")[0]["loss"] > numbers(after / "metrics.jsonl")[0]["loss"]
    last = state(tiny_run / "runs" / BACKBONES[-1])["params"]["params"]["visual_head"]
    assert (load_file(tiny_export / "model.safetensors")["visual_head"] == np.asarray(last, jnp.bfloat16)).all()


# -- killed and started again


def killed(folder: Path, data: Path, condition, flags=()) -> None:
    """Trains into `folder` and kills the process, as nothing can catch, as soon as the condition holds."""
    command = [sys.executable, "train.py", "--config=configs/emoji.py:tiny"]
    command += [f"--config.workdir={folder}", f"--config.data={data}", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not condition() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the process ended before it could be killed"


def logged_more(log: Path) -> bool:
    """Whether steps after the first saved state are logged."""
    return any(line["step"] > EVERY for line in read_log(log))


def state(folder: Path):
    """The float32 weights and the optimizer's state after the last step of a stage."""
    return ocp.StandardCheckpointer().restore((folder / "state" / str(STEPS) / "default").resolve())


@pytest.fixture(scope="module")
def resumed(train, tiny_run, tmp_path_factory) -> Path:
    """A run that was killed right after a state was saved, then between two states, and then ended."""
    folder = tmp_path_factory.mktemp("resumed")
    data, flags = tiny_run / "data", (f"--config.workdir={folder}", f"--config.data={tiny_run / 'data'}")
    killed(folder, data, lambda: (folder / "tokenizer" / "state" / str(EVERY)).is_dir())
    assert not (folder / "export" / "vq.safetensors").exists()
    killed(folder, data, partial(logged_more, folder / "continued-1" / "metrics.jsonl"))
    assert not (folder / "export" / "model.safetensors").exists()
    assert os.listdir(folder / "continued-1" / "state") == [str(EVERY)]
    done = train(*flags)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_killing_a_run_changes_no_bit_of_its_weights(tiny_run, resumed, stage):
    expected, actual = state(tiny_run / "runs" / stage), state(resumed / stage)
    assert jax.tree.structure(expected) == jax.tree.structure(actual)
    for (path, x), y in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_killing_a_run_changes_no_exported_byte(tiny_export, resumed, name):
    assert (tiny_export / name).read_bytes() == (resumed / "export" / name).read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_killing_a_run_neither_repeats_nor_drops_a_line_of_the_log(tiny_run, resumed, stage):
    assert numbers(resumed / stage / "metrics.jsonl") == numbers(tiny_run / "runs" / stage / "metrics.jsonl")


# -- the stage "flash", which goes on from a backbone


@pytest.fixture(scope="module")
def flash_runs(train, tiny_run, tmp_path_factory) -> tuple[Path, Path]:
    """Two trainings of a vertical branch: one in one go, and one with the same first phase, killed between two states
    of the second, then ended."""
    folders = tuple(tmp_path_factory.mktemp(name) for name in ("flash", "flash-resumed"))
    flags = [f"--config.data={tiny_run / 'data'}", "--config.stage=flash"]
    for folder in folders:
        shutil.copytree(tiny_run / "runs" / "export", folder / "export")
        shutil.copy(next((tiny_run / "runs").glob("codes-*.npy")), folder)
    for folder in folders:
        if folder == folders[1]:
            shutil.copytree(folders[0] / "branch", folder / "branch")
            killed(folder, tiny_run / "data", partial(logged_more, folder / "flash" / "metrics.jsonl"), flags[1:])
            assert os.listdir(folder / "flash" / "state") == [str(EVERY)]
        done = train(f"--config.workdir={folder}", *flags)
        assert done.returncode == 0, done.stderr
        assert f"--weights={folder / 'flash-export'}" in done.stdout
    return folders


def test_a_branch_is_exported_with_its_own_backbone(flash_runs, tiny_export):
    export = flash_runs[0] / "flash-export"
    assert {path.name for path in export.iterdir()} == EXPORTED - {"heads.safetensors", "README.md"} | {
        "branch.safetensors"
    }
    assert load_file(export / "model.safetensors").keys() == load_file(tiny_export / "model.safetensors").keys()
    for folder in (export, flash_runs[0] / "export"):  # and the branch that was trained alone, beside the old backbone
        out = ssd_jax.load(folder).generate(["red apple, twemoji"], decoder="flash")
        assert out.tokens.shape == (1, 16, 16) and out.passes.tolist() == [31]
    with pytest.raises(WeightsError, match="was trained on another backbone"):
        ssd_jax.load(tiny_export, branch=export)


def test_first_the_branch_learns_alone_then_all(flash_runs, tiny_export):
    branch, flash = (state(flash_runs[0] / stage)["params"] for stage in ("branch", "flash"))
    assert branch.keys() == {"branch"} and flash.keys() == {"backbone", "branch"}
    config = read_config(tiny_export)[0]
    backbone = read_tensors(tiny_export / "model.safetensors", abstract_backbone(config), jnp.float32)
    begun = json.loads((flash_runs[0] / "flash" / "origin.json").read_text())["start"]
    assert begun == digest({"backbone": backbone, **branch})  # with the branch that the first phase made
    tuned, before = (
        load_file(folder / "model.safetensors") for folder in (flash_runs[0] / "flash-export", tiny_export)
    )
    assert any((tuned[name] != before[name]).any() for name in before)
    for stage in ("branch", "flash"):
        lines = numbers(flash_runs[0] / stage / "metrics.jsonl")
        heldout = [line["heldout"] for line in lines if "heldout" in line]
        assert heldout[-1] < heldout[0]
        assert (flash_runs[0] / stage / f"sample_{STEPS:06d}.png").is_file()
        assert all(("distillation" in line) == (stage == "branch") for line in lines if "loss" in line)


@pytest.mark.parametrize("name", ["model.safetensors", "branch.safetensors"])
def test_killing_the_training_of_a_branch_changes_no_exported_byte(flash_runs, name):
    whole, resumed = ((folder / "flash-export" / name).read_bytes() for folder in flash_runs)
    assert whole == resumed


# -- the loop, with a task that costs nothing

CHEAP = StageSpec(
    steps=12, batch=1, warmup=2, decay=0.3, clip=1.0, weight_decay=0.1, b2=0.99, lr=0.1, log_every=4, save_every=6,
    eval_images=1,
)  # fmt: skip


class Crash(Exception):
    pass


def cheap_task(crash_at: int | None = None) -> Task:
    """The loss of a step is its number, so that what is logged can be foretold; evaluation may crash."""
    calls = []

    def loss(params, frozen, batch, key):
        noise = jax.random.normal(key, params["w"].shape)
        return batch + 0.0 * jnp.sum(params["w"]), {"w": jnp.sum(params["w"] * noise)}

    def evaluate(params):
        calls.append(1)
        if crash_at is not None and len(calls) == crash_at:
            raise Crash
        return {"heldout": float(params["w"].sum())}

    def init(key):
        return {"w": jax.random.normal(key, (3, 2))}

    return Task("cheap", init, loss, lambda step: np.float32(step), evaluate)


@pytest.mark.usefixtures("standard_promotion")
def test_what_is_logged_is_the_mean_over_the_steps_it_covers(tmp_path):
    fit(cheap_task(), CHEAP, 0, tmp_path, {})
    losses = [(line["step"], line["loss"]) for line in read_log(tmp_path / "cheap" / "metrics.jsonl") if "loss" in line]
    # Sums start anew at a checkpoint (step 6), as they do in a run that is resumed there.
    assert losses == [(4, np.mean([0, 1, 2, 3])), (8, np.mean([6, 7])), (12, np.mean([8, 9, 10, 11]))]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("crash_at", [1, 2])
def test_a_crash_while_a_checkpoint_is_written_loses_no_line(tmp_path, crash_at):
    expected = fit(cheap_task(), CHEAP, 0, tmp_path / "whole", {})
    with pytest.raises(Crash):
        fit(cheap_task(crash_at), CHEAP, 0, tmp_path / "crashed", {})
    actual = fit(cheap_task(), CHEAP, 0, tmp_path / "crashed", {})
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    logs = [numbers(tmp_path / name / "cheap" / "metrics.jsonl") for name in ("whole", "crashed")]
    assert logs[0] == logs[1]


@pytest.mark.usefixtures("standard_promotion")
def test_a_finished_run_started_again_changes_nothing(tmp_path):
    expected = fit(cheap_task(), CHEAP, 0, tmp_path, {})
    log = (tmp_path / "cheap" / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, fit(cheap_task(), CHEAP, 0, tmp_path, {}), expected)
    assert (tmp_path / "cheap" / "metrics.jsonl").read_bytes() == log


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert [line["step"] for line in read_log(path)] == [1, 2]
    MetricLog(path, 1).write(2, {"loss": 0.5})
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 0.5}\n'


def test_the_learning_rate_rises_stays_and_falls():
    rate = schedule(2.0, steps=100, warmup=10, decay=0.3)
    np.testing.assert_allclose([rate(step) for step in (0, 5, 10, 50, 70, 85, 100)], [0, 1, 2, 2, 2, 1, 0], atol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_weight_decay_leaves_vectors_alone():
    """And norms of attention heads, whose scales and biases are matrices."""
    optimizer = make_optimizer(dataclasses.replace(CHEAP, warmup=0))
    norm = {"scale": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))}
    params = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2), "q_norm": norm}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    changed = optax.apply_updates(params, updates)
    assert np.all(np.asarray(changed["matrix"]) < 1.0)
    np.testing.assert_array_equal(changed["vector"], params["vector"])
    jax.tree.map(np.testing.assert_array_equal, changed["q_norm"], norm)


@pytest.mark.parametrize(("blind", "least", "most"), [(0.0, 0.0, 0.4), (1.0, 0.4, 1.0)])
def test_pictures_are_shown_with_wrong_codes_from_their_batch(blind, least, most):
    """The share of wrong codes is drawn evenly between its bounds, for every image anew."""
    codes = np.arange(400 * 256, dtype=np.int32).reshape(400, 256)  # no code occurs twice, so what is wrong can be seen
    shown = corrupt(codes, 0.4, blind, np.random.default_rng(0))
    shares = (shown != codes).mean(axis=1)
    assert np.isin(shown, codes).all()
    assert abs(shares.mean() - (least + most) / 2) < 0.03 and abs(shares.std() - (most - least) / 12**0.5) < 0.02
    assert shares.min() > least - 0.12 and shares.max() < most + 0.12


def test_some_pictures_are_blind():
    codes = np.arange(2000 * 64, dtype=np.int32).reshape(2000, 64)
    shares = (corrupt(codes, 0.0, 0.25, np.random.default_rng(0)) != codes).mean(axis=1)
    assert abs((shares == 0).mean() - 0.75) < 0.05


@pytest.mark.usefixtures("standard_promotion")
def test_the_tokenizers_update_is_compiled_once(tiny_run):
    """The second step's state must have the first one's types, weak types included."""
    given = {**vars(CHEAP), "batch": 4, "eval_images": 8}
    spec = TokenizerSpec(**given, gradient_weight=0.5, continuous_steps=4)
    vq = VQConfig(channels=16, groups=4, codebook_size=64)
    task = tokenizer_task(vq, spec, 0, emoji.load(tiny_run / "data"))
    optimizer = make_optimizer(spec, task.matrices, task.rates)
    update = make_step(task.loss, optimizer, 0, task.revise)
    assert task.revise is not None
    before = jax.eval_shape(lambda key: init_state(task.init(key), optimizer), jax.random.key(0))
    after, _ = jax.eval_shape(update, before, task.frozen, task.batch(0))
    for (path, x), y in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type), jax.tree_util.keystr(path)


# -- minutes


@pytest.mark.parametrize(("log_every", "save_every"), [(4, 4), (4, 6), (5, 3)])
def test_minutes_count_every_step_once(tmp_path, log_every, save_every):
    """At 2 images a second, 12 steps of 4 images take 24 seconds, wherever lines and checkpoints fall."""
    every = dict(log_every=log_every, save_every=save_every)
    lines = [{"step": step, "images_per_second": 2.0} for step in range(log_every, 13, log_every)]
    for stage in STAGES:
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = dict.fromkeys(STAGES, dataclasses.replace(CHEAP, batch=4, **every))
    assert training_minutes(tmp_path, parts) == pytest.approx(dict.fromkeys(STAGES, 24 / 60))


# -- mistakes


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config=configs/nope.py", ["configs/nope.py"]),
        ("--config=configs/emoji.py:big", ["'big'", "tiny"]),
        ("--config.backbone.stepz=3", ["stepz", "steps"]),
        ("--config.backbone.steps=many", ["steps", "many"]),
        ("--coordinator=localhost:1", ["Several processes", "draft heads"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(train, tmp_path, flag, words):
    done = train(f"--config.workdir={tmp_path / 'runs'}", f"--config.data={tmp_path / 'data'}", flag)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert os.listdir(tmp_path) == []  # nothing was begun


def test_a_second_training_in_the_same_folder_is_refused(train, tmp_path):
    flags = f"--config.workdir={tmp_path / 'runs'}", f"--config.data={tmp_path / 'data'}"
    with locked(tmp_path / "runs"):
        done = train(*flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: Another run is writing into the folder {tmp_path / 'runs'};")
    assert done.stderr.count("\n") == 1 and os.listdir(tmp_path) == []


def tiny_config(folder: Path, data: Path, **changes):
    """The `:tiny` configuration with its folders; keys of changes may have dots."""
    config = runpy.run_path(str(ROOT / "configs" / "emoji.py"))["get_config"]("tiny")
    config.update_from_flattened_dict({"workdir": str(folder), "data": str(data), **changes})
    return config


def test_without_its_later_phases_the_backbone_is_that_of_the_first_and_the_heads_of_another_go(
    tiny_run, tmp_path, standard_promotion, monkeypatch
):
    folder = Path(shutil.copytree(tiny_run / "runs", tmp_path / "runs"))
    export, changes, seeds = folder / "export", {"stage": "backbone"}, {}

    def recorded(name, model, settings, seed, *others):
        seeds[name] = seed
        return backbone_task(name, model, settings, seed, *others)

    monkeypatch.setattr(emoji_recipe, "backbone_task", recorded)
    emoji_recipe.run(EmojiSpec.parse(tiny_config(folder, tiny_run / "data", **changes)))
    assert (export / "heads.safetensors").exists()  # nothing was left to train: they fit
    shutil.copyfile(export / "heads.safetensors", export / "heads-other.safetensors")
    assert list(seeds) == list(BACKBONES) and len(set(seeds.values())) == len(seeds)  # each has its own batches
    changes["continued.repeats"] = 0
    emoji_recipe.run(EmojiSpec.parse(tiny_config(folder, tiny_run / "data", **changes)))
    first = state(folder / "backbone")["params"]["params"]["visual_head"]
    assert (load_file(export / "model.safetensors")["visual_head"] == np.asarray(first, jnp.bfloat16)).all()
    assert {path.name for path in export.iterdir()} == EXPORTED - {"heads.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stage", "bakbone", ["bakbone", "all", "tokenizer", "backbone", "heads"]),
        ("backbone.matmul", "int4", ["int4", "float32", "bfloat16"]),
        ("overlap.matmul", "int4", ["config.overlap.matmul", "int4", "float32", "bfloat16"]),
        ("seed", -1, ["seed", "-1"]),
        ("backbone.accumulation", 3, ["config.backbone.batch", "4", "3"]),
        ("model.layers", 0, ["config.model", "layers", "0"]),
        ("model.head_dim", 15, ["config.model", "head_dim", "15"]),
        ("vq.groups", 7, ["config.vq", "groups", "7"]),
        ("vq.patch", 48, ["config.vq", "128 pixels", "96"]),
        ("heads_model.horizontal", 1000, ["config.heads_model", "horizontal", "1000"]),
        ("tokenizer.log_every", 0, ["config.tokenizer.log_every", "0"]),
        ("heads.save_every", 0, ["config.heads.save_every", "0"]),
        ("overlap.batch", 0, ["config.overlap.batch", "0"]),
        ("backbone.steps", 0, ["config.backbone.steps", "0"]),
        ("continued.repeats", -1, ["config.continued.repeats", "-1"]),
        ("backbone.lr", -1.0, ["config.backbone.lr", "-1.0"]),
        ("backbone.lr", float("nan"), ["config.backbone.lr", "nan"]),
        ("overlap.b2", 1.0, ["config.overlap.b2", "1.0"]),
        ("backbone.caption_drop", 1.5, ["config.backbone.caption_drop", "between 0 and 1", "1.5"]),
        ("limit", -1, ["config.limit", "-1"]),
        ("report_drawn", 0, ["config.report_drawn", "0"]),
        ("styles", ("noto", "zzz"), ["style", "zzz", "twemoji"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_begun(tmp_path, name, value, words):
    with pytest.raises(ssd_jax.UserError) as caught:
        EmojiSpec.parse(tiny_config(tmp_path / "runs", tmp_path / "data", **{name: value}))
    assert all(word in str(caught.value) for word in words)
    assert os.listdir(tmp_path) == []


def test_data_of_another_style_is_refused(tiny_run, tmp_path):
    with pytest.raises(ssd_jax.UserError, match="has images of the style twemoji, which config.styles leaves out"):
        emoji_recipe.run(EmojiSpec.parse(tiny_config(tmp_path / "runs", tiny_run / "data", styles=("noto",))))


@pytest.mark.parametrize(("stage", "missing"), [("backbone", "tokenizer"), ("heads", "backbone")])
def test_a_stage_without_its_predecessor_says_which_to_run(tiny_run, tmp_path, stage, missing):
    if stage == "heads":
        (tmp_path / "export").mkdir()
        shutil.copy(tiny_run / "runs" / "export" / "vq.safetensors", tmp_path / "export")
        for codes in (tiny_run / "runs").glob("codes-*.npy"):
            shutil.copy(codes, tmp_path)
    with pytest.raises(ssd_jax.UserError, match=f"run the stage '{missing}' first"):
        emoji_recipe.run(EmojiSpec.parse(tiny_config(tmp_path, tiny_run / "data", stage=stage)))
