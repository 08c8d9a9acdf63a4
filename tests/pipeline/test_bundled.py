"""The model that comes with the package has learned what its prompts mean: held-out images, of identities and of
skin tones or styles that it saw but never together, are likelier under their own caption than under another's."""

import dataclasses
import shutil
from unittest.mock import ANY

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import flash_logits

import ssd_jax
from ssd_jax.decode.presets import PRESETS
from ssd_jax.models.branch import init_branch
from ssd_jax.prompts import pad_left
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.losses import token_nll
from ssd_jax.weights.export import CARD_NAME, write_heads_card

TWO = ["green heart, noto", "santa claus, noto"]

MARGIN = 0.05
"""Nats per token by which the own caption must win on average."""


@pytest.fixture(scope="module")
def nll(bundled, heldout):
    """nll(captions) -> nats per token of every held-out image under these captions, [M]."""
    codes = np.array(heldout["codes"], np.int32)
    length = pad_left([bundled.prompts.frame(text) for text in heldout["captions"]], 0)[0].shape[1]

    def measure(captions: list[str]) -> np.ndarray:
        ids, mask = pad_left([bundled.prompts.frame(text) for text in captions], bundled.config.pad_id, length)
        parts = []
        for part in np.split(np.arange(len(codes)), range(8, len(codes), 8)):
            logits = bundled.visual_logits(ids[part], codes[part], prompt_mask=mask[part])
            parts.append(np.asarray(token_nll(logits, jax.numpy.asarray(codes[part]))).mean(axis=1))
        return np.concatenate(parts)

    return measure


def test_the_fixture_is_complete(bundled, heldout, fixtures):
    pictures = np.load(fixtures / "heldout_images.npy", allow_pickle=False)
    count = len(heldout["captions"])
    assert pictures.shape == (count, 128, 128, 3) and pictures.dtype == np.uint8
    assert np.array(heldout["codes"]).shape == (count, bundled.config.rows * bundled.config.cols)
    assert heldout["split"].count("combination") == 24 and heldout["split"].count("identity") == 8


def test_the_card_is_that_of_its_heads(bundled, tmp_path):
    write_heads_card(tmp_path / "heads.safetensors", bundled.heads, bundled.folder / "model.safetensors")
    assert (tmp_path / CARD_NAME).read_bytes() == (bundled.folder / CARD_NAME).read_bytes()


def test_heads_of_the_published_kind_are_bundled_too(bundled):
    pipe = ssd_jax.load("emoji", heads="published")
    assert (pipe.heads.horizontal, pipe.heads.vertical, pipe.heads.context) == (5, 2, 0)
    found = pipe.made_with()["model"]
    assert found["backbone"] == bundled.fingerprints["backbone"] and found["heads"] != bundled.fingerprints["heads"]
    one, other = (each.generate(TWO[:1], decoder="ssd", seed=0, pixels=False) for each in (bundled, pipe))
    assert (other.passes == 52).all() and (one.tokens != other.tokens).any()


def test_records_name_the_files_of_backbone_heads_and_tokenizer(bundled, tmp_path):
    first = bundled.made_with()["model"]
    assert first == {"weights": str(bundled.folder), **bundled.fingerprints}
    shutil.copytree(bundled.folder, tmp_path / "copy")
    same = ssd_jax.load(tmp_path / "copy").fingerprints
    assert same == bundled.fingerprints and None not in same.values()
    heads = tmp_path / "copy" / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-1] + b"\1")
    assert ssd_jax.load(tmp_path / "copy").fingerprints == {**same, "heads": ANY}
    assert ssd_jax.load(tmp_path / "copy").fingerprints["heads"] != same["heads"]
    heads.unlink()
    (tmp_path / "copy" / "vq.safetensors").unlink()
    assert ssd_jax.load(tmp_path / "copy").fingerprints == {**same, "heads": None, "tokenizer": None}


def test_prompts_matter(nll, heldout):
    own = nll(heldout["captions"])
    combination = np.array(heldout["split"]) == "combination"
    shuffled = heldout["captions"][:]
    for split in ("combination", "identity"):  # every caption moves to another image of its own split
        places = [place for place, name in enumerate(heldout["split"]) if name == split]
        for place, other in zip(places, places[len(places) // 2 :] + places[: len(places) // 2], strict=True):
            shuffled[place] = heldout["captions"][other]
    gain = (nll(shuffled) - own)[combination]
    print(f"nats per token: {own[combination].mean():.3f}, under another's caption {gain.mean():.3f} more")
    assert gain.mean() > MARGIN
    assert np.mean(gain > 0) >= 0.75


def test_a_caption_helps(nll, heldout):
    combination = np.array(heldout["split"]) == "combination"
    gain = (nll([""] * len(heldout["captions"])) - nll(heldout["captions"]))[combination]
    assert gain.mean() > MARGIN


def test_known_words_are_known(bundled, heldout):
    known = [text for text, split in zip(heldout["captions"], heldout["split"], strict=True) if split == "combination"]
    assert [word for text in known for word in bundled.prompts.unknown(text)] == []


def test_the_default_prompts_draw_pictures_that_are_not_blank(bundled):
    out = bundled.generate(["red apple, twemoji"])
    assert np.asarray(out.images[0]).std() > 10


def test_a_history_of_passes_saves_passes(bundled):
    wide = dataclasses.replace(PRESETS["ssd-exact"], window=32)  # in a narrow window drafts are seldom made twice
    with_it, without = (
        bundled.generate(TWO, decoder=d, pixels=False) for d in (wide, dataclasses.replace(wide, history=0))
    )
    print(f"passes {with_it.passes}, without {without.passes}")
    assert with_it.passes.mean() < 0.95 * without.passes.mean()


@pytest.mark.parametrize(("name", "most"), [("emoji", 3.3), ("emoji-flash", 3.2)])
def test_the_branch_was_trained(name, most, heldout):
    """NLL of what `flash` draws from, on images that were held out; an untrained branch has 4.3 and 4.2 nats."""
    pipe, pick = ssd_jax.load(name, dtype=jnp.float32), np.array(heldout["split"]) == "combination"
    codes = jnp.asarray(np.array(heldout["codes"], np.int32)[pick][:16])
    texts = [text for text, kept in zip(heldout["captions"], pick, strict=True) if kept][:16]
    batch = PromptBatch.stack([pipe.prompts.frame(text) for text in texts], None, pipe.config.pad_id)
    grid, both = Grid(pipe.config.rows, pipe.config.cols), pipe.model.both
    untrained = init_branch(pipe.config, pipe.model.branch.config, pipe.params, jax.random.key(0))
    logits = jax.jit(lambda *given: flash_logits(pipe.model.forked, *given, grid))
    nll, before = (
        float(token_nll(logits(each, jnp.asarray(batch.ids), jnp.asarray(batch.mask), codes), codes).mean())
        for each in (both, {**both, "branch": untrained})
    )
    print(f"{name}: {nll:.3f} nats per token, with an untrained branch {before:.3f}")
    assert nll < most < before - 0.5
