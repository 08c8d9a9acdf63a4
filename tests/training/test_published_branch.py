"""train.py --config.stage=flash with the configs of published backbones: a branch beside one, and both trained."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from published_folders import SIZE, published_folder
from safetensors.numpy import load_file

import ssd_jax
from ssd_jax.cli import entry
from ssd_jax.errors import UserError
from ssd_jax.recipes import published
from ssd_jax.recipes.published_spec import PublishedSpec
from ssd_jax.training.metrics import read_log

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twelve plain images of two colours, captions beside them."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(12):
        pixels = np.tile(rng.integers(0, 256, (1, 2, 3), np.uint8).repeat(10, axis=1), (20, 1, 1))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}\n")
    return folder


def spec_of(name: str, folder: Path, **changes) -> PublishedSpec:
    config = entry.read_config(f"configs/{name}.py:tiny")
    places = dict(stage="flash", data=str(folder / "data"), workdir=str(folder / "runs"), size=SIZE[name])
    config.update_from_flattened_dict({**places, **changes})
    return PublishedSpec.parse(config)


def heldout(folder: Path, phase: str) -> list[float]:
    lines = read_log(folder / "runs" / phase / "metrics.jsonl")
    return [line["heldout"] for line in lines if "heldout" in line]


@pytest.mark.parametrize("name", ["lumina_mgpt", "emu3_5"])
def test_a_branch_learns_beside_a_frozen_backbone(pictures, tmp_path, name):
    """In windows of the backbone, with row ends; the images are encoded, or drawn by the backbone itself."""
    weights = published_folder(name, tmp_path / "checkpoint")
    changes = {"weights": str(weights), "images": str(pictures)}
    if name == "emu3_5":
        (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(12)))
        changes |= {"images": "", "prompts_file": str(tmp_path / "prompts.txt")}
    spec = spec_of(name, tmp_path, **changes)
    export = published.run(spec)
    losses = heldout(tmp_path, "branch")
    assert losses[-1] < losses[0] and sorted(path.name for path in export.iterdir()) == ["branch.safetensors"]
    pipe = ssd_jax.load(weights, branch=export)
    out = pipe.generate(["a red cat"], decoder="flash", size=SIZE[name] or None, pixels=False)
    assert out.passes.tolist() == [4 + 4 - 1]
    assert f"--weights={weights} --branch={export} --decoder=flash" in published.result(spec, export)[1]
    text = spec.report.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows] == ["| untrained", "| branch alone"]
    before, after = (float(row.split(" | ")[1]) for row in rows)
    assert after < before and "as `ar` draws them it is" in text


def test_a_backbone_that_learns_with_its_branch_is_a_checkpoint_of_its_own(pictures, tmp_path):
    """With the original's image tokenizer; its own branch is refused by the backbone that it came from."""
    weights = published_folder("janus_pro", tmp_path / "checkpoint")
    changes = {"weights": str(weights), "images": str(pictures), "flash.steps": 12}
    spec = spec_of("janus_pro", tmp_path, **changes)
    export = published.run(spec)
    assert export == spec.flash_export
    names = ["branch.safetensors", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in export.iterdir()) == names
    assert heldout(tmp_path, "flash")[-1] < heldout(tmp_path, "branch")[-1]
    tuned = ssd_jax.load(export, vq_weights=weights, dtype=jnp.float32)
    before = ssd_jax.load(weights, dtype=jnp.float32)
    assert tuned.config == before.config
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(*(jax.tree.leaves(pipe.params) for pipe in (tuned, before)), strict=True)
    ]
    assert 0 < max(moved) < 1
    out = tuned.generate(["a red cat"], decoder="flash")
    assert out.passes.tolist() == [7] and np.asarray(out.images[0]).std() > 0
    first = load_file(spec.export / "branch.safetensors")
    assert any((x != first[name]).any() for name, x in load_file(export / "branch.safetensors").items())
    with pytest.raises(UserError, match="was trained on another backbone"):
        ssd_jax.load(weights, branch=export)
    origin = json.loads((tmp_path / "runs" / "flash" / "origin.json").read_text())
    assert origin["start"] != json.loads((tmp_path / "runs" / "branch" / "origin.json").read_text())["start"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage": "branch"}, ["stage", "branch", "heads", "flash"]),
        ({"vertical_branch.layers": 0}, ["config.vertical_branch", "layers", "0"]),
        ({"vertical_branch.layers": 2}, ["config.vertical_branch", "2 layers", "longer", "of 1"]),
        ({"branch.distillation": -1.0}, ["config.branch.distillation", "-1.0"]),
        ({"flash.accumulation": 3}, ["config.flash.batch", "4", "3"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(pictures, tmp_path, changes, words):
    weights = published_folder("janus_pro", tmp_path / "checkpoint")
    with pytest.raises(UserError) as caught:
        published.run(spec_of("janus_pro", tmp_path, **{"weights": str(weights), "images": str(pictures), **changes}))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()
