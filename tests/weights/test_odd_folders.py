"""Checkpoint folders that are complete but wrong: each gives one sentence, and nothing waits, hangs or decodes."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

import ssd_jax
from ssd_jax.backbones.hf_config import from_hf
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.config_json import HIGHEST
from ssd_jax.models.vq_config import MoVQConfig
from ssd_jax.pipeline import free_memory as room
from ssd_jax.weights import tensors
from ssd_jax.weights.load import read_metadata
from ssd_jax.weights.part_file import BRANCH_FILE, HEADS_FILE
from ssd_jax.weights.tensors import finite


@pytest.fixture
def folder(headed_folder, tmp_path) -> Path:
    """A copy of a checkpoint with draft heads and a branch."""
    return Path(shutil.copytree(headed_folder, tmp_path / "checkpoint"))


def leave_alone(folder: Path) -> None:
    """Removes what belongs to the backbone."""
    for kind in (HEADS_FILE, BRANCH_FILE):
        (folder / kind.name).unlink()


def refused(folder: Path, **options) -> str:
    with pytest.raises(ssd_jax.UserError) as caught:
        ssd_jax.load(folder, **options).generate(["red apple"], max_passes=1)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400
    return text


# -- files


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "heads.safetensors", "branch.safetensors", "vq.safetensors", "tokenizer.json"],
)
def test_a_pipe_in_place_of_a_file_does_not_wait(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "not a regular file" in (text := refused(folder)) or "has no tokenizer.json" in text


def test_heads_in_place_of_the_backbone(folder):
    shutil.copy(folder / "heads.safetensors", folder / "model.safetensors")
    leave_alone(folder)
    assert "tensor" in (text := refused(folder)) and "model.safetensors" in text


def test_a_file_without_tensors(folder):
    leave_alone(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    assert "is missing" in refused(folder)


def test_an_index_without_tensors(folder):
    leave_alone(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "lists no tensors" in refused(folder)


def test_a_link_to_heads_that_are_gone_does_not_mean_that_there_are_none(folder):
    (folder / "heads.safetensors").unlink()
    (folder / "heads.safetensors").symlink_to(folder / "elsewhere.safetensors")
    assert "heads.safetensors does not exist" in refused(folder)


@pytest.mark.parametrize("suffix", [".bin", ".pt"])
def test_heads_that_are_a_pickle_are_named_and_not_opened(folder, suffix):
    (folder / "heads.safetensors").unlink()
    (folder / f"heads{suffix}").write_bytes(b"not opened")
    assert f"heads{suffix} is refused" in refused(folder)[:200].replace(str(folder), "")


def test_heads_that_tell_of_no_heads(folder):
    path = folder / "heads.safetensors"
    values = json.loads(read_metadata(path)[HEADS_FILE.key])
    values["config"] |= {"horizontal": 0, "vertical": 0}
    save_file({}, path, {HEADS_FILE.key: json.dumps(values)})
    assert "lists no draft heads" in refused(folder)


@pytest.mark.parametrize(
    ("layers", "said"),
    [(0, "must be positive, not 0"), (9, "branch of 9 layers is longer than the backbone")],
)
def test_a_branch_that_tells_of_odd_layers(folder, layers, said):
    path = folder / "branch.safetensors"
    values = json.loads(read_metadata(path)[BRANCH_FILE.key])
    save_file({}, path, {BRANCH_FILE.key: json.dumps(values | {"config": {"layers": layers}})})
    assert "branch.safetensors: " in (text := refused(folder)) and said in text


# -- JSON


DEEP, LONG, LARGE = "[" * 100_000 + "]" * 100_000, "9" * 5000, "1" + "0" * 400 + ".0"


@pytest.mark.parametrize("number", [DEEP, LONG, LARGE], ids=["deep", "long", "large"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "model.safetensors.index.json", "heads.safetensors", "branch.safetensors"],
)
def test_json_beyond_all_measure(folder, name, number):
    if name == "config.json":
        values = json.loads((folder / name).read_text())
        values["model"]["rope_theta"] = "HERE"
        (folder / name).write_text(json.dumps(values).replace('"HERE"', number))
    elif name in ("heads.safetensors", "branch.safetensors"):
        key = name.removesuffix(".safetensors")
        save_file(load_file(folder / name), folder / name, {key: '{"config": ' + number + "}"})
    else:
        (folder / name).write_text('{"weight_map": ' + number + "}")
        if "index" in name:
            leave_alone(folder)
            (folder / "model.safetensors").unlink()
    assert name in refused(folder)


# -- numbers


@pytest.mark.parametrize("value", [10**9, 2**40, 10**4000])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("model", name)
        for name in ("layers", "vocab_size", "width", "head_dim", "rows", "code_width", "bos_id", "boi_id")
    ]
    + [("vq", name) for name in ("patch", "channels", "blocks", "groups", "codebook_size", "code_dim")],
)
def test_numbers_of_a_config_are_bounded(folder, section, name, value):
    values = json.loads((folder / "config.json").read_text())
    values[section][name] = value
    (folder / "config.json").write_text(json.dumps(values))
    assert name in refused(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rope_theta", 1e39), ("rope_theta", 1e-50), ("norm_eps", 1e3), ("cfg_scale", 1e6), ("bos_id", 104)],
)
def test_numbers_that_no_model_has(folder, name, value):
    values = json.loads((folder / "config.json").read_text())
    values["model"][name] = value
    (folder / "config.json").write_text(json.dumps(values))
    assert name in refused(folder)


def test_as_many_levels_as_a_picture_has_pixels(folder):
    values = json.loads((folder / "config.json").read_text())
    values["vq"]["multipliers"] = [1] * 100
    (folder / "config.json").write_text(json.dumps(values))
    assert "levels" in refused(folder)
    with pytest.raises(ssd_jax.UserError, match="multipliers must be at most"):
        MoVQConfig(channels=32, multipliers=(1,) * 100, blocks=1, attention_levels=(), codebook_size=9)
    with pytest.raises(ssd_jax.UserError, match="channels must be at most"):
        MoVQConfig(channels=2**30, multipliers=(1,), blocks=1, attention_levels=(), codebook_size=9)


def test_known_models_are_far_below_the_bounds():
    from ssd_jax.backbones import PUBLISHED

    for published in PUBLISHED.values():
        model = published.model
        for name in ("vocab_size", "layers", "width", "mlp_width", "heads", "head_dim", "rows", "code_width"):
            assert 10 * getattr(model, name) <= HIGHEST[name], (model.architecture, name)
    assert {name for name, kind in ModelConfig.__annotations__.items() if kind in (int, float)} <= set(HIGHEST)


# -- values that are not finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors", "branch.safetensors", "vq.safetensors"])
def test_one_value_that_is_not_finite_is_named(folder, name, value):
    path = folder / name
    tensors, metadata = load_file(path), read_metadata(path)
    matrices = sorted(key for key, tensor in tensors.items() if tensor.ndim > 1)  # others are in the fingerprint
    tensors[matrices[0]].reshape(-1)[-1] = value
    save_file(tensors, path, dict(metadata) or None)
    assert f"tensor {matrices[0]!r} has values that are not finite" in refused(folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("small", [1, 2**20])
def test_finite(dtype, small, monkeypatch):
    """By NumPy and by XLA alike."""
    monkeypatch.setattr(tensors, "SMALL", small)
    values = np.full((7, 9), 1.5, dtype)
    assert finite(jnp.asarray(values)) and finite(jnp.arange(3))
    values[3, 8] = np.nan
    assert not finite(jnp.asarray(values))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_of_millions_is_seen(dtype, value):
    """Large arrays are XLA's, which reduces them by another library; sums that overflow say nothing."""
    values = jnp.ones((1500, 1501), dtype)
    assert finite(values) and finite(jnp.full((1500, 1501), 3e38, dtype)) and finite(values.reshape(-1))
    assert not finite(values.reshape(-1).at[777_777].set(value))
    assert not finite(values.at[777, 1500].set(value)) and not finite(values.at[0, 0].set(value))


# -- sizes of a call


def test_a_mesh_of_more_devices_than_can_be_simulated(folder, tmp_path):
    command = [sys.executable, "sample.py", f"--weights={folder}", "--prompt=dog", "--mesh=model:99999"]
    done = subprocess.run([*command, f"--out={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "takes 99999 devices, but there are 512" in done.stderr


def test_pictures_that_do_not_fit_are_refused_with_the_numbers(folder, monkeypatch):
    pipe = ssd_jax.load(folder)
    monkeypatch.setattr(room, "free_bytes", lambda: 100_000)
    with pytest.raises(ssd_jax.UserError) as caught:
        pipe.generate(["dog"], size="1024x1024")
    text = str(caught.value)
    assert text.startswith("A batch of 1 (256 x 256 tokens each) does not fit in memory, draw fewer at once (max_")
    assert "keys and values" in text and "0.00 GB are free" in text
    monkeypatch.setattr(room, "free_bytes", lambda: None)
    assert pipe.generate(["dog"], max_passes=1).passes.tolist() == [1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_images=1000000000"], ["1048576 images", "1000000000"]),
        (["--num_images=" + "9" * 4000], ["At most", "999..."]),
        (["--size=99992x99992"], ["4096 pixels a side", "99992"]),
        (["--size=" + "1" * 10_000], ["HEIGHTxWIDTH", "111..."]),
        (["--mesh=model:" + "9" * 5000], ["A mesh is written", "999..."]),
        (["--decoder=SSD(rounds=999999999999)"], ["rounds"]),
        (["--decoder=" + "-" * 20_000], ["decoder", "---..."]),
        (["--decoder=" + "(" * 20_000], ["decoder", "(((..."]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_sizes_are_refused_before_anything_is_made(folder, command_line, tmp_path, flags, words):
    code, _, error = command_line(f"--weights={folder}", "--prompt=dog", f"--out={tmp_path / 'out'}", *flags)
    said = error.strip().splitlines()[-1]
    assert code == 2 and len(said) < 500 and "object at" not in said
    assert all(word in said for word in words), said
    assert not (tmp_path / "out" / "images.json").exists()


# -- published configs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "Emu3", "image_area": float("inf")}, "a number or a section has the wrong type"),
        ({"model_type": "Emu3", "image_area": 10**700}, "a number or a section has the wrong type"),
        ({"model_type": "Emu3", "vocabulary_map": [1]}, "vocabulary_map must be an object"),
        ({"architectures": 5}, "None is not a model"),
        ({"model_type": "x" * 10**6}, "'xxx"),
        ({"model_type": "Emu3", "num_hidden_layers": 10**9}, "'layers' must be at most"),
        ({"model_type": "Emu3", "hidden_act": "x" * 10**6}, "hidden_act must be 'silu', not 'xxx"),
        ({"model_type": "Emu3", "boi_token_id": 10**7}, "boi_id"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_odd_published_configs(values, words):
    with pytest.raises(ssd_jax.UserError) as caught:
        from_hf(values)
    text = str(caught.value)
    assert words in text and len(text) < 400 and text.startswith("config.json: ")
