"""sample.py with the configs of the published backbones: decoders, sizes, mistakes.

The models are small and random, in the folders that transformers makes of them (tests/torch_backbones.py).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from published_folders import CONFIGS, SIZE, published_folder
from safetensors.numpy import load_file, save_file

import ssd_jax
from ssd_jax.cli import entry
from ssd_jax.models.branch import boxed_branch
from ssd_jax.models.config import BranchConfig, HeadsConfig, ModelConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.models.draft_heads import abstract_heads
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.weights.export import write_tensors
from ssd_jax.weights.load import read_config
from ssd_jax.weights.part_file import BRANCH_FILE, HEADS_FILE

SIDE = 4  # codes along a side of an image
HEADS = HeadsConfig(horizontal=2, vertical=2)
BRANCH = BranchConfig(layers=1)
WITHOUT_HEADS = [
    "ar",
    "sjd",
    "scd",
    "scd-gumbel",
    "sjd-pac",
    "gsd",
    "pjd",
    "jacobi-match",
    "jacobi-above",
    "jacobi-wave",
]


def config_of(name: str) -> ModelConfig:
    return from_dict(ModelConfig, entry.read_config(f"configs/{name}").model.to_dict(), name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder for each backbone; Emu3's has draft heads and a vertical branch."""
    made = {name: published_folder(name, tmp_path_factory.mktemp(name) / "checkpoint") for name in CONFIGS}
    rng = np.random.default_rng(0)
    heads = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), abstract_heads(HEADS, 32))
    metadata = HEADS_FILE.metadata(HEADS, made["emu3"] / "model.safetensors")
    write_tensors(made["emu3"] / "heads.safetensors", heads, np.float32, metadata)
    below = nn.unbox(boxed_branch(config_of("emu3.py:tiny"), BRANCH))
    below = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), below)
    metadata = BRANCH_FILE.metadata(BRANCH, made["emu3"] / "model.safetensors")
    write_tensors(made["emu3"] / "branch.safetensors", below, np.float32, metadata)
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_says_what_the_saved_folder_says(folders, name):
    assert read_config(folders[name])[0] == config_of(f"{name}.py:tiny")


def test_a_branch_of_another_backbone_and_one_for_random_weights_are_refused(folders, command_line):
    flags = ["--config=configs/janus_pro.py:tiny", "--decoder=flash", "--prompt=a red cat"]
    branch = f"--branch={folders['emu3']}"
    for more, said in (
        ([f"--weights={folders['janus_pro']}", branch], "branch.safetensors: it was trained on another backbone"),
        ([f"--weights={folders['janus_pro']}", f"--branch={folders['janus_pro']}"], "branch.safetensors"),
        ([f"--weights={folders['janus_pro']}"], "needs a vertical branch, and there is none; give one with --branch"),
        (["--weights=random", branch], "--branch does not go with --weights=random"),
        (["--weights=random"], "needs a vertical branch"),
    ):
        code, _, error = command_line(*flags, *more)
        assert code == 2 and said in error and error.count("\n") == 1, error


def test_a_plan_counts_the_branch_that_is_given(folders, command_line):
    flags = ["--config=configs/emu3.py:tiny", "--decoder=flash", "--plan"]
    code, text, error = command_line(*flags, f"--weights={folders['emu3']}")
    assert code == 0 and "vertical branch" in text, error
    line = next(line for line in text.splitlines() if "vertical branch" in line)
    assert line in command_line(*flags, f"--branch={folders['emu3']}")[1].splitlines()


@pytest.mark.parametrize("name", CONFIGS)
def test_decoders_draw(folders, tmp_path, name):
    decoders = list(ssd_jax.PRESETS) if name == "emu3" else ["ar", "pjd"]
    command = [f"--config=configs/{name}.py:tiny", f"--weights={folders[name]}", f"--out={tmp_path}"]
    command += [f"--compare={','.join(decoders)}", "--prompt=a red cat"]
    command += [f"--size={SIZE[name]}"] if SIZE[name] else []
    done = subprocess.run(
        [sys.executable, "sample.py", *command], cwd=ROOT, text=True, capture_output=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "compare.png").is_file(), done.stderr
    records = json.loads((tmp_path / "compare.json").read_text())["images"]
    passes = {record["decoder"]: record["passes"] for record in records}
    assert list(passes) == decoders
    assert passes["ar"] == SIDE**2 and all(
        1 < passes[decoder] <= SIDE**2 for decoder in set(WITHOUT_HEADS) & set(decoders)
    )
    if name == "emu3":
        assert passes["ssd"] == 1 + 2 * -(-(SIDE - 1) // HEADS.horizontal) + 3 * (SIDE - 1)


@pytest.mark.parametrize(
    ("name", "size", "shape"), [("emu3", "3:2", (6, 10)), ("emu3_5", "3:2", (6, 8)), ("lumina_mgpt", "4x8", (4, 8))]
)
def test_another_size(command_line, folders, tmp_path, name, size, shape):
    code, stdout, stderr = command_line(
        f"--config=configs/{name}.py:tiny", f"--weights={folders[name]}", f"--out={tmp_path}", f"--size={size}",
        "--negative_prompt=fog",
    )  # fmt: skip
    assert code == 0, stderr
    with Image.open(tmp_path / "000.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (*shape, 3) and pixels.std() > 10
    assert json.loads((tmp_path / "images.json").read_text())["options"]["size"] == size


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("emu3", [], ["configs/emu3.py", "--weights"]),
        ("janus_pro", ["--weights=janus_pro", "--decoder=ssd"], ["draft heads", "jacobi-above", "scd"]),
        ("janus_pro", ["--weights=janus_pro", "--size=1:1"], ["8x8"]),
        ("lumina_mgpt", ["--weights=lumina_mgpt", "--size=1:1"], ["multiples of 4"]),
        ("janus_pro", ["--weights=emu3"], ["janus", "emu3"]),
        ("janus_pro:2b", [], ["'2b'", "1b"]),
    ],
)
def test_mistakes(command_line, folders, tmp_path, name, flags, words):
    flags = [
        flag.replace(flag[10:], str(folders[flag[10:]])) if flag.startswith("--weights=") else flag for flag in flags
    ]
    file, _, variant = name.partition(":")
    code, stdout, stderr = command_line(
        f"--config=configs/{file}.py{':' + variant if variant else ''}", f"--out={tmp_path}", *flags
    )
    assert code == 2 and stdout == "" and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr


@pytest.mark.parametrize("change", ["truncated", "renamed", "dtype", "shape"])
def test_a_damaged_file_is_told_in_one_sentence(command_line, folders, tmp_path, change):
    folder, name = (
        Path(shutil.copytree(folders["janus_pro"], tmp_path / "damaged")),
        "model.generation_head.proj_out.bias",
    )
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        tensor = tensors.pop(name)
        tensors |= {
            "renamed": {"gen_head.bias": tensor},
            "dtype": {name: tensor.astype(np.int32)},
            "shape": {name: tensor[1:]},
        }[change]
        save_file(tensors, path)
    code, stdout, stderr = command_line("--config=configs/janus_pro.py", f"--weights={folder}", f"--out={tmp_path}")
    assert code == 2 and stdout == "" and stderr.startswith(f"error: {path}") and stderr.count("\n") == 1
    assert change == "truncated" or name in stderr
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("config", "published", "not_ours", "ours_only"),
    [
        # published parameters of the language model; rows of its text head, which we leave out; parts that we count too
        ("emu3.py", 8_492_011_520, (184622 - 32768) * 4096, 0),
        ("emu3_5.py", 34_103_460_864, (282926 - 131072) * 5120, 0),
        ("lumina_mgpt.py", 7_013_158_912, (65536 - 8192) * 4096, 32 * 2 * 2 * 31 * 128),  # q/k norms of every head
        ("janus_pro.py", 6_910_365_696, 102400 * 4096, 16384 * 8 + (8 + 1 + 4096 + 1) * 4096 + 4097 * (4096 + 16384)),
        (
            "janus_pro.py:1b",
            1_652_656_128,
            102400 * 2048,
            16384 * 8 + (8 + 1 + 2048 + 1) * 2048 + 2049 * (2048 + 16384),
        ),
    ],
)
def test_the_configs_describe_networks_of_the_published_size(config, published, not_ours, ours_only):
    leaves = jax.tree.leaves(abstract_backbone(config_of(config)))
    assert sum(leaf.size for leaf in leaves) == published - not_ours + ours_only
