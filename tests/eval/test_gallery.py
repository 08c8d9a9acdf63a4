"""Reference images: which captions are asked for, what a drawn image is looked up among, and the report's R@k."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssd_jax import UserError
from ssd_jax.eval import gallery as gallery_module
from ssd_jax.eval.features import available, features, load_network
from ssd_jax.eval.gallery import Gallery
from ssd_jax.eval.recognition import ASKED, recognition

needs_features = pytest.mark.skipif(not available(), reason="the extra [eval] is not installed")


@pytest.fixture(scope="module")
def data(fixtures, heldout, tmp_path_factory) -> Path:
    """The held-out images of the fixtures as a data folder; two of three count as trained on, one has a skin tone."""
    folder = tmp_path_factory.mktemp("data")
    records = []
    for index, caption in enumerate(heldout["captions"]):
        name, style = caption.rsplit(", ", 1)
        split = ("train", "train", "combination")[index % 3] if heldout["split"][index] != "identity" else "identity"
        record = {"code": f"{index:x}", "identity": f"{index:x}", "tone": "dark" if index == 1 else "", "name": name}
        records.append({**record, "style": style, "caption": caption, "split": split})
    (folder / "index.json").write_text(json.dumps({"styles": ["noto", "twemoji"], "size": 128, "pictures": records}))
    shutil.copy(fixtures / "heldout_images.npy", folder / "images.npy")
    return folder


@pytest.fixture
def gallery(data) -> Gallery:
    return Gallery.read(data)


@pytest.mark.parametrize("splits", [("train",), ("combination",), ("train", "combination"), ("identity",)])
def test_prompts_are_captions_of_their_splits_without_skin_tone(gallery, splits):
    asked = gallery.prompts(100, splits)
    found = gallery.data
    wanted = {
        text for text, split, tone in zip(found.captions, found.splits, found.tones, strict=True)
        if split in splits and not tone
    }  # fmt: skip
    assert set(asked) == wanted and len(asked) == 100
    assert asked == Gallery.read(gallery.folder).prompts(100, splits)


def test_a_split_without_pictures_is_one_sentence(gallery):
    with pytest.raises(UserError, match="no image without skin tone in nothing"):
        gallery.prompts(4, ("nothing",))


def test_the_mark_is_that_of_pictures_and_index(gallery, data, tmp_path):
    for name, change in (
        ("index.json", lambda b: b.replace(b'"dark"', b'"mixed"')),
        ("images.npy", lambda b: b[:-1] + b"\1"),
    ):
        folder = Path(shutil.copytree(data, tmp_path / name))
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        assert Gallery.read(folder).mark != gallery.mark
    assert Gallery.read(Path(shutil.copytree(data, tmp_path / "same"))).mark == gallery.mark


def test_features_are_computed_once(data, tmp_path, monkeypatch):
    computed = []

    def count(network, images):
        computed.append(len(images))
        return images.reshape(len(images), -1)[:, :7].astype(np.float32)

    monkeypatch.setattr(gallery_module, "features", count)
    one = Gallery.read(Path(shutil.copytree(data, tmp_path / "copy")))
    first, again = one.shelf(None), Gallery.read(one.folder).shelf(None)
    np.testing.assert_array_equal(first, again)
    assert sum(computed) == len(first) == 31
    changed = dataclasses.replace(one, mark="0" * 12)  # other images in the same folder
    changed.shelf(None)
    assert sum(computed) == 62


@needs_features
def test_recognition_of_fixed_codes_is_what_it_was(gallery, bundled, heldout):
    """Codes of real images, decoded by the bundled tokenizer: 29 of 31 are nearest to the images they are of."""
    images = bundled.decode(np.array(heldout["codes"], np.int32).reshape(-1, 16, 16))
    network = load_network()
    seen = features(network, images)
    shares, note = gallery.find(bundled, network, heldout["captions"], {"codes": seen, "reversed": seen[::-1]})
    assert (shares["codes"][1].value, shares["codes"][5].value) == (29 / 31, 1.0)
    assert shares["reversed"][1].value == 0.0
    assert f"31 images among 31 (gallery {gallery.mark})" in note


@needs_features
def test_recognition_asks_for_trained_and_for_held_out_captions(gallery, bundled):
    found = recognition(bundled, gallery, 2)
    assert set(found.shares) == set(ASKED)
    assert all(0 <= share[1].value <= share[5].value <= 1 for share in found.shares.values())
    assert all(f"{name}: Retrieval: 2 images among 31" in found.note for name in ASKED)
