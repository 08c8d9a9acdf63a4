"""A model on many devices gives the tokens of one device, with little communication between devices."""

import json
import subprocess
import sys
from collections import Counter

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import ROOT
from jax.sharding import AbstractMesh
from PIL import Image
from processes import run_together, two_processes
from toy import random_backbone, small_config

from ssd_jax.errors import UserError
from ssd_jax.models.branch import boxed_branch
from ssd_jax.models.config import BranchConfig, HeadsConfig, VQConfig
from ssd_jax.models.draft_heads import boxed_heads
from ssd_jax.models.layers import ACTIVATION
from ssd_jax.models.transformer import abstract_backbone, boxed_backbone
from ssd_jax.parallel.mesh import AXES, MODEL, check_divides, make_mesh, parse_mesh, place, sharding_of
from ssd_jax.parallel.processes import join
from ssd_jax.sequence import cache
from ssd_jax.weights.export import write_config, write_tensors

CACHED = cache.AXES["plain"]

# One configuration for every part that a backbone can have.
CONFIGS = [
    small_config(places=True),
    small_config(architecture="chameleon", qk_norm="layer", row_end_id=4),
    small_config(architecture="janus", code_width=8, head_width=16),
]


def is_box(leaf) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def boxes():
    """(path, box) of every parameter of every kind of backbone and branch, and of draft heads with a context."""
    trees = [boxed_backbone(config) for config in CONFIGS]
    trees += [boxed_branch(config, BranchConfig(1)) for config in CONFIGS]
    trees.append(boxed_heads(HeadsConfig(horizontal=2, vertical=2, context=1), 32))
    return [leaf for tree in trees for leaf in jax.tree.leaves_with_path(tree, is_leaf=is_box)]


def mesh_of(data: int, model: int) -> AbstractMesh:
    return AbstractMesh((data, model), ("data", "model"))


# -- the table


def test_every_axis_of_every_parameter_is_in_the_table_and_no_name_is_idle():
    used = set(ACTIVATION) | set(CACHED)
    for path, box in boxes():
        assert is_box(box), f"{jax.tree_util.keystr(path)} has no names"
        assert len(box.names) == box.value.ndim, jax.tree_util.keystr(path)
        used |= set(box.names)
    assert used == set(AXES)


def test_no_parameter_is_split_twice_over_one_mesh_axis_and_every_matrix_of_a_block_is_split():
    for path, box in boxes():
        axes = [AXES[name] for name in box.names if AXES[name]]
        assert max(Counter(axes).values(), default=0) <= 1, jax.tree_util.keystr(path)
        if "block_0" in jax.tree_util.keystr(path) and box.value.ndim > 1:
            assert MODEL in axes, jax.tree_util.keystr(path)


def test_a_name_that_the_table_lacks_is_an_error():
    with pytest.raises(KeyError):
        sharding_of(("embed", "unknown"), (4, 4), mesh_of(1, 2))


def test_key_value_heads_are_split_where_that_is_possible():
    shape = (4, 2, 16, 8)
    assert tuple(sharding_of(CACHED, shape, mesh_of(2, 2)).spec)[:2] == ("data", "model")
    assert tuple(sharding_of(CACHED, shape, mesh_of(2, 4)).spec)[:2] == ("data", None)


def test_a_device_holds_its_part_alone():
    like = place(boxed_backbone(small_config()), mesh_of(2, 4))["params"]
    parts = {name: like["block_0"]["mlp"][name].sharding.shard_shape((32, 48)) for name in ("down",)}
    assert parts == {"down": (32, 12)}
    assert like["embedding"].sharding.shard_shape((40, 32)) == (40, 8)


# -- what cannot be


@pytest.mark.parametrize("text", ["", "model", "model:0", "model:-1", "model:x", "heads:2", "model:2,model:2", "2,4"])
def test_a_malformed_mesh(text):
    with pytest.raises(UserError, match="A mesh is written as data:2,model:4"):
        parse_mesh(text)


def test_an_axis_that_is_left_out_has_one_device():
    assert parse_mesh("model:8") == {"data": 1, "model": 8}


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match=r"data:1,model:4096 takes 4096 devices, but there are \d+ \(cpu\)"):
        make_mesh("model:4096")


@pytest.mark.parametrize(
    ("config", "parts", "message"),
    [
        (small_config(), 3, "model:3 does not divide the 4 heads; it can be 1, 2, 4"),
        (small_config(mlp_width=30), 4, "does not divide the 30 mlp columns; it can be 1, 2"),
        (small_config(heads=12, kv_heads=3), 2, "neither divides the 3 key/value heads .* it can be 1"),
        (small_config(code_width=8, head_width=6), 4, "does not divide the 6 columns inside the output head"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model(config, parts, message):
    with pytest.raises(UserError, match=message):
        check_divides(config, mesh_of(1, parts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost", 2, 0), "HOST:PORT"),
        (("localhost:99999", 2, 0), "HOST:PORT"),
        (("localhost:1", None, 0), "needs --num_processes and --process_id"),
        (("localhost:1", 2, 2), "--process_id must be between 0 and 1"),
        (("auto", 2, 0), "leave them out"),
        (("203.0.113.1:9999", 2, 0), "cannot be the coordinator at 203.0.113.1:9999"),
        (("localhost:1", 2, 1), "Nothing answers at the coordinator's address localhost:1"),
    ],
)
def test_a_coordinator_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        join(*arguments, patience=0)


def test_a_process_that_does_not_come():
    address = next(flag for flag in two_processes()[0] if "coordinator" in flag).partition("=")[2]
    script = f"from ssd_jax.parallel.processes import join; join({address!r}, 2, 0, patience=2)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == f"error: After 2 s some of the 2 processes of the coordinator {address} are missing.\n"


def test_the_command_line_says_so_in_one_sentence():
    command = [sys.executable, "sample.py", "--mesh=model:3"]  # it sets the number of devices of its process
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "does not divide the 2 heads; it can be 1, 2" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mesh=modle:2"], "A mesh is written as"),
        (["--coordinator=localhost:1"], "need --mesh"),
        (["--mesh=model:2", "--process_id=1"], "need --coordinator"),
    ],
)
def test_so_it_does_of_malformed_and_missing_flags(command_line, flags, message):
    code, _, error = command_line(*flags)
    assert code == 2 and message in error and len(error.strip().splitlines()) == 1


# -- eight devices


@pytest.fixture(scope="module")
def report(headed_folder, tmp_path_factory) -> dict:
    """What eight_devices.py tells of drawing with `headed_folder`, and of the logits of the other families."""
    others = []
    for config in CONFIGS[1:]:
        others.append(tmp_path_factory.mktemp(config.architecture))
        write_config(others[-1], config, VQConfig(codebook_size=config.visual_size))
        write_tensors(others[-1] / "model.safetensors", random_backbone(config), np.float32)
    command = [sys.executable, ROOT / "tests" / "eight_devices.py", headed_folder, *others]
    done = subprocess.run(command, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kinds"] == {"cpu": 8}
    return report


@pytest.fixture(scope="module")
def eight(report) -> list[dict]:
    """What was drawn."""
    return report["runs"]


def test_eight_devices_draw_the_tokens_of_one(eight):
    drawn = "ar ssd ssd-exact ssd-tree sjd-pac ssd-wave mtp ar"
    assert [run["decoder"] for run in eight] == drawn.split()
    for run in eight:
        assert run["same_tokens"] and run["same_passes"], (run["mesh"], run["decoder"])


def test_teacher_forcing_gives_the_logits_of_one_device_for_every_family(report):
    assert len(report["logits_differ"]) == len(CONFIGS) and max(report["logits_differ"]) < 1e-4


def test_random_weights_do_not_depend_on_the_mesh(report):
    assert len(report["random"]) == 6 and all(report["random"].values()), report["random"]


def test_every_device_is_given_its_part_of_the_weights(eight):
    for run, split in ((eight[0], 4), (eight[-1], 2)):
        parts = run["parts"]
        assert parts["block_0.attention.q"] == [4 // split, 8, 32]
        assert parts["block_0.attention.k"] == [2 if split == 4 else 1, 8, 32]
        assert parts["block_0.mlp.down"] == [32, 48 // split]
        assert parts["visual_head"] == [64 // split, 32]


def test_a_block_costs_two_all_reduces_and_nothing_else_is_summed(eight):
    for run in eight:  # of a model with one block
        if run["decoder"] == "ar":  # the prefill and the loop's pass
            assert len(run["collectives"]["all-reduce"]) == 2 * 2
            assert set(run["collectives"]) == {"all-reduce", "all-gather"}
    for run in eight:  # no decoder makes more of a window of the backbone's width than its passes and heads need
        assert not set(run["collectives"]) - {"all-reduce", "all-gather"}, run["decoder"]


def test_neither_weights_nor_cache_travel_or_are_copied(eight):
    for run in eight:
        whole = {tuple(sorted(box.value.shape)) for _, box in boxes() if box.value.ndim > 1}
        whole |= {tuple(sorted((*run["cache"][:1], 2, *run["cache"][2:]))), tuple(sorted(run["cache"]))}
        moved = [tuple(sorted(size for size in shape if size > 1)) for shape in run["collectives"]["all-gather"]]
        squeezed = {tuple(size for size in shape if size > 1) for shape in whole}
        assert moved and not squeezed & set(moved), (run["decoder"], squeezed & set(moved))
        assert run["cache_copies"] == 0, run["decoder"]


# -- draft heads in training


def test_a_step_of_head_training_on_eight_devices_is_that_of_one(report):
    for one, several in zip(*report["training"], strict=True):
        assert several["numbers"] == pytest.approx(one["numbers"], rel=1e-4) and one["numbers"]["grad_norm"] > 0.01


def test_heads_and_moments_are_split_and_the_frozen_backbone_stays_where_it_is(report):
    shapes = [leaf.shape for leaf in jax.tree.leaves(abstract_backbone(small_config(vocab_size=72, visual_size=64)))]
    shapes += [(32, 32), (32, 16)]  # queries, keys and values as one matrix each
    shapes.append((report["runs"][0]["parts"]["embedding"][0], 32))
    weights = {tuple(sorted(shape)) for shape in shapes if len(shape) > 1}
    for part in report["training"][1]:
        gathered = {tuple(sorted(shape)) for shape in part["collectives"]["all-gather"]}
        assert gathered and not gathered & weights, gathered & weights
        matrices = [(np.prod(whole), np.prod(here)) for whole, here in part["shapes"] if len(whole) > 2]
        assert len(matrices) >= 2 * 4 and all(whole == 4 * here for whole, here in matrices)  # parameters and momenta


def test_a_step_of_branch_training_on_eight_devices_is_that_of_one(report):
    """Of the branch alone, and of both: losses, gradients and the evaluation."""
    assert len(report["branches"][0]) == 2
    for one, several in zip(*report["branches"], strict=True):
        assert several == pytest.approx(one, rel=1e-4)
        assert one["grad_norm"] > 0.01 and {"nll", "vertical", "distillation", "heldout"} < one.keys()


# -- two processes


def test_two_processes_draw_the_picture_of_one(headed_folder, tmp_path):
    command = ["sample.py", f"--weights={headed_folder}", "--prompt=red apple", "--decoder=ssd-wave"]
    runs = [[*command, *flags, f"--out={tmp_path / str(index)}"] for index, flags in enumerate(two_processes())]
    codes, said = run_together(*runs, [*command, f"--out={tmp_path / 'alone'}"])
    assert codes == [0, 0, 0], said[0][1][-2000:] + said[1][1][-2000:]
    pictures = [np.asarray(Image.open(tmp_path / name / "000.png")) for name in ("0", "alone")]
    assert (pictures[0] == pictures[1]).all()
    assert not (tmp_path / "1").exists() and "passes" not in said[1][0]  # only the first writes and talks


def test_what_only_the_first_process_sees_to_be_wrong_stops_both(headed_folder, tmp_path):
    """Neither waits for the other, and each says why in one sentence."""
    (tmp_path / "file").touch()
    command = ["sample.py", f"--weights={headed_folder}", "--prompt=red", f"--out={tmp_path / 'file' / 'folder'}"]
    codes, said = run_together(*([*command, *flags] for flags in two_processes()))
    assert codes == [2, 2], said
    for (_, errors), words in zip(said, ("cannot be written to", "The first process stopped"), strict=True):
        assert errors.count("\n") == 1, errors
        line = errors
        assert line.startswith("error: ") and words in line
