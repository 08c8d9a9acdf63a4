"""--weights=random: models of any config that need no file, with a p that can be sampled."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import UserError
from ssd_jax.cli import entry
from ssd_jax.models.config import HeadsConfig
from ssd_jax.pipeline import free_memory as room
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.pipeline.opening import is_random, open_model
from ssd_jax.pipeline.random_weights import ENTROPY, draw, load_random
from ssd_jax.weights.export import write_tensors
from ssd_jax.weights.load import FORMAT
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.part_file import HEADS_FILE

TINY = ("configs/emu3.py:tiny", "configs/emu3_5.py:tiny", "configs/lumina_mgpt.py:tiny", "configs/janus_pro.py:tiny")


def models(spec: str, **changes):
    config = entry.read_config(spec)
    found = find_models(config, spec, config.weights)
    return found._replace(backbone=dataclasses.replace(found.backbone, **changes))


def test_values_are_those_of_the_seed():
    like = {"a": {"q": jax.ShapeDtypeStruct((32, 64), jnp.float32), "k": jax.ShapeDtypeStruct((32, 64), jnp.float32)}}
    first, again, other = (flatten(draw(like, seed)) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert not any((first[name] == other[name]).any() for name in first)
    assert not (first["a.q"] == first["a.k"]).any()
    assert float(first["a.q"].std()) == pytest.approx(64**-0.5, rel=0.05)


def test_what_is_no_matrix_is_one_or_zero():
    names = {"norm": (2, 8), "attention_norm": {"scale": (8,)}, "first_bias": (8,), "conv": {"bias": (8,)}}
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), names, is_leaf=lambda x: isinstance(x, tuple))
    made = flatten(draw(like, 0))
    assert {name: float(leaf.min()) for name, leaf in made.items()} == {
        "norm": 1, "attention_norm.scale": 1, "first_bias": 0, "conv.bias": 0,
    }  # fmt: skip


@pytest.mark.parametrize("spec", ["configs/emoji.py", *TINY])
def test_entropy_is_near_the_bundled_models(spec):
    """Of p, guided and filtered, along images drawn by it: sampling is neither greedy nor blind."""
    pipe = load_random(models(spec, rows=4, cols=4), dtype=jnp.float32)
    out = pipe.generate(["a b", "c d", "e f"], num_images=4, pixels=False)
    grid = tuple(out.tokens.shape[1:])
    pairs = [pipe.prompts.pair(text, None, None) for text in out.prompts]
    logits = [
        np.stack([pipe.visual_logits(np.array([row]), codes.reshape(1, -1), grid)[0] for row in pair])
        for pair, codes in zip(pairs, out.tokens, strict=True)
    ]
    found = []
    for cond, uncond in logits:
        guided = uncond + pipe.config.cfg_scale * (cond - uncond)
        kept = np.sort(guided)[:, -pipe.config.top_k :] if pipe.config.top_k else guided
        log_p = np.asarray(jax.nn.log_softmax(kept))
        found.append(-(np.exp(log_p) * log_p).sum(-1).mean())
    assert ENTROPY / 3 < np.mean(found) < 2 * ENTROPY


def test_the_command_line_draws_noise_and_says_so(command_line, tmp_path):
    flags = "--config=emoji", "--weights=random", "--prompt=a"
    code, out, err = command_line(*flags, f"--out={tmp_path}")
    assert code == 0, err
    assert out.startswith("The weights are random: seconds are real, images are noise.")
    assert json.loads((tmp_path / "images.json").read_text())["model"]["weights"] == "random, seed 0"
    assert (tmp_path / "000.png").is_file()


def test_a_folder_named_random_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no checkpoint folder './random'"):
        open_model(entry.read_config("emoji"), "emoji", "./random")
    assert is_random(open_model(entry.read_config(TINY[2]), "", "random"))


def test_options_that_make_no_sense_are_one_sentence(tmp_path, command_line):
    heads = {"format": FORMAT, "config": dataclasses.asdict(HeadsConfig(2, 1)), "backbone": "x"}
    wrong = {"w0": jnp.zeros((3, 8, 16)), "gate": jnp.zeros((3, 8, 8)), "up": jnp.zeros((3, 8, 8))}
    wrong |= {"down": jnp.zeros((3, 8, 8)), "norm": jnp.zeros((3, 8))}
    write_tensors(tmp_path / "heads.safetensors", wrong, jnp.float32, {HEADS_FILE.key: json.dumps(heads)})
    flags = [f"--config={TINY[0]}", "--weights=random"]
    for more, said in (
        (f"--heads={tmp_path}", "has shape (3, 8, 8), but the config wants (3, 32, 32)"),
        ("--heads=/nowhere", "does not exist"),
        ("--vq_weights=DIR", "leave --vq_weights out"),
    ):
        code, out, err = command_line(*flags, more)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_trained_heads_of_the_right_size_are_taken(tmp_path):
    found = models(TINY[0])
    pipe = load_random(found)
    header = {"format": FORMAT, "config": dataclasses.asdict(found.heads), "backbone": "x"}
    metadata = {HEADS_FILE.key: json.dumps(header)}
    write_tensors(tmp_path / "heads.safetensors", pipe.heads_params, jnp.float32, metadata)
    config = entry.read_config(TINY[0])
    with_heads = open_model(config, "", "random", heads=tmp_path)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), with_heads.heads_params, pipe.heads_params)
    assert all(jax.tree.leaves(same))
    emoji = entry.read_config("emoji")  # by name, those of the config's own checkpoint
    assert open_model(emoji, "", "random", heads="published").heads.context == 0


def test_no_room_is_said_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda: 10**9)
    monkeypatch.setattr("ssd_jax.pipeline.random_weights.draw", None)
    said = r"does not fit in memory: it needs 14.* GB \(weights 13.* GB, draft heads 1.* GB, cache .* GB\), and 1.00 GB"
    with pytest.raises(UserError, match=said):
        load_random(models("configs/janus_pro.py"), dtype=jnp.bfloat16)
