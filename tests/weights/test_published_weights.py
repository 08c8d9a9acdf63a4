"""Checkpoint folders of the published backbones: any naming and sharding gives the same model; damage is reported."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ssd_jax
from ssd_jax.backbones import PUBLISHED
from ssd_jax.backbones.hf_config import from_hf
from ssd_jax.errors import UserError
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.weights import hub
from ssd_jax.weights.export import write_tensors
from ssd_jax.weights.load import fingerprint, read_backbone, read_config
from ssd_jax.weights.mapping import Source, flatten
from ssd_jax.weights.names import find_sources
from ssd_jax.weights.part_file import HEADS_FILE
from ssd_jax.weights.store import INDEX_SUFFIX, WeightsError, find_weights

NAMINGS = {family: published.namings for family, published in PUBLISHED.items()}
SIZES = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
VALUES = {
    "emu3": {"model_type": "Emu3", **SIZES, "vq_config": {"codebook_size": 32},
             "vocabulary_map": {f"<|visual token {code:06d}|>": 20 + code for code in range(32)}},
    "emu3_5": {"model_type": "Emu3", "vq_type": "ibq", **SIZES, "head_dim": 6, "vq_config": {"codebook_size": 32},
               "vocabulary_map": {f"<|visual token {code:06d}|>": 20 + code for code in range(32)}},
    "chameleon": {"model_type": "chameleon", **SIZES, "vq_config": {"num_embeddings": 32}},
    "janus": {"model_type": "janus", "text_config": SIZES, "vq_config": {"num_embeddings": 32, "projection_dim": 24}},
}  # fmt: skip
EXTRA = {
    "emu3": ["vqmodel.encoder.conv_in.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"],
    "emu3_5": ["model.layers.0.self_attn.rotary_emb.inv_freq"],
    "chameleon": ["model.vqmodel.quantize.embedding.weight"],
    "janus": ["vision_model.post_layernorm.bias", "aligner.fc1.weight", "gen_vision_model.quant_conv.bias"],
}
"""Tensors that such files hold, too."""
UP = "model.layers.1.mlp.up_proj.weight"


def config_of(family: str):
    return from_hf(VALUES[family])


def tensors_of(family: str, naming=None) -> dict[str, np.ndarray]:
    """Random tensors as a published file has them; their values depend on our parameter's name alone."""
    config = config_of(family)
    leaves = flatten(abstract_backbone(config))
    naming = naming or NAMINGS[family][-1]
    tensors = {name: np.zeros(2, np.float32) for name in EXTRA[family]}
    for index, (name, source) in enumerate(sorted(find_sources(config, leaves, [naming.embedding]).items())):
        rng = np.random.default_rng(index)
        tensors[source.name] = rng.normal(size=source.stored_shape(leaves[name].shape)).astype(np.float32)
    return tensors


def write(folder: Path, family: str, tensors: dict[str, np.ndarray], shards: int = 1) -> Path:
    """A checkpoint folder, in one file or in shards with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(VALUES[family]))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    files = [f"model-{shard + 1:05d}-of-{shards:05d}.safetensors" for shard in range(shards)]
    weight_map = {name: files[index % shards] for index, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / f"model.safetensors{INDEX_SUFFIX}").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def read(folder: Path, dtype=jnp.float32) -> dict[str, np.ndarray]:
    """Our flat parameters."""
    config, _ = read_config(folder)
    return flatten(read_backbone(find_weights(folder), config, abstract_backbone(config), dtype))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, x in a.items():
        np.testing.assert_array_equal(x, b[name], err_msg=name)


# -- where values lie


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("", (4, 6), lambda x: x),
        ("out in -> in out", (6, 4), lambda x: x.T),
        ("(n h) d -> d n h", (6, 2, 2), lambda x: x.reshape(2, 2, 6).transpose(2, 0, 1)),
        ("d (n h) -> n h d", (3, 2, 4), lambda x: x.reshape(4, 3, 2).transpose(1, 2, 0)),
        ("out 6 -> out", (4,), lambda x: x[:, 5]),  # an axis that we lack: its last entry
    ],
)
def test_layouts_and_parts(layout, shape, expected):
    stored = np.arange(24).reshape(4, 6)
    source, whole = Source("x", layout), expected(stored)
    assert source.stored_shape(shape) == stored.shape and source.fits(stored.shape, shape)
    np.testing.assert_array_equal(source.read(stored, shape), whole)
    for axis in range(len(shape)):  # a part of every axis, as a device of a mesh takes it
        index = tuple(slice(1, 2) if other == axis else slice(None) for other in range(len(shape)))
        np.testing.assert_array_equal(source.read(stored, shape, index), whole[index])
    np.testing.assert_array_equal(
        source.read(stored, shape, (slice(1, 2),) * len(shape)), whole[(slice(1, 2),) * len(shape)]
    )


def test_a_layout_names_every_axis_once():
    with pytest.raises(ValueError, match="once on both sides"):
        Source("x", "(n h) d -> d n").stored_shape((3, 2))


class Rows:
    """A stored tensor that remembers what was read of it."""

    def __init__(self, values: np.ndarray):
        self.values, self.taken = values, []

    def __getitem__(self, index):
        self.taken.append(index)
        return self.values[index]


def test_of_a_text_head_only_the_visual_rows_are_read():
    head = Rows(np.arange(30).reshape(10, 3))
    source = Source("lm_head.weight", "out in -> in out", first=4, rows=10)
    np.testing.assert_array_equal(source.read(head, (3, 5)), head.values[4:9].T)
    assert head.taken == [(slice(4, 9), slice(0, 3))]


def test_rows_for_all_heads_or_for_every_process_or_for_every_head():
    source, expected = Source("q_norm", spread=True), {1: [0, 0, 0, 0], 2: [0, 0, 1, 1], 4: [0, 1, 2, 3]}
    for rows, heads in expected.items():
        stored = np.arange(rows * 3).reshape(rows, 3)
        assert source.fits(stored.shape, (4, 3))
        np.testing.assert_array_equal(source.read(stored, (4, 3)), stored[heads])
        np.testing.assert_array_equal(source.read(stored, (4, 3), (slice(1, 3), slice(0, 2))), stored[heads][1:3, :2])
    assert not source.fits((3, 3), (4, 3)) and not source.fits((4, 2), (4, 3)) and not source.fits((0, 3), (4, 3))


# -- whole folders


@pytest.mark.parametrize("family", NAMINGS)
def test_any_naming_and_any_sharding_is_the_same_model(tmp_path, family):
    expected = read(write(tmp_path / "first", family, tensors_of(family)))
    for index, naming in enumerate(NAMINGS[family]):
        folder = write(tmp_path / str(index), family, tensors_of(family, naming), shards=3)
        assert_same(read(folder), expected)


def test_one_row_of_a_norm_stands_for_all_heads(tmp_path):
    tensors = tensors_of("chameleon")
    norms = [name for name in tensors if re.search("[qk]_norm", name)]
    tensors |= {name: np.repeat(tensors[name][:1], len(tensors[name]), axis=0) for name in norms}
    expected = read(write(tmp_path / "all", "chameleon", tensors))
    assert_same(
        read(write(tmp_path / "one", "chameleon", tensors | {name: tensors[name][:1] for name in norms})), expected
    )


def test_bfloat16_files_in_either_dtype(tmp_path):
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors_of("emu3").items()}
    folder = write(tmp_path / "half", "emu3", tensors)
    half = read(folder, jnp.bfloat16)
    assert {x.dtype for x in half.values()} == {jnp.dtype(jnp.bfloat16)}
    assert_same(read(folder), {name: np.asarray(x, np.float32) for name, x in half.items()})


def test_arrays_go_where_the_sharding_says(tmp_path):
    folder = write(tmp_path / "x", "emu3", tensors_of("emu3"))
    config, _ = read_config(folder)
    place = jax.sharding.NamedSharding(jax.make_mesh((1,), ("model",)), jax.sharding.PartitionSpec())
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract_backbone(config))
    params = flatten(read_backbone(find_weights(folder), config, like, jnp.float32))
    assert all(x.sharding == place for x in params.values())
    assert_same(params, read(folder))


def test_load_recognises_a_published_folder(tmp_path):
    folder = write(tmp_path / "x", "janus", tensors_of("janus"), shards=2)
    pipe = ssd_jax.load(folder, tokens={"boi": 7})
    assert pipe.config.architecture == "janus" and pipe.config.boi_id == 7
    assert pipe.fingerprint() == fingerprint(find_weights(folder))
    assert pipe.visual_logits([[1, 2, 7]], np.zeros((1, 4)), grid=(2, 2)).shape == (1, 4, 32)


def test_heads_know_a_sharded_backbone(tmp_path):
    tensors, config, path = tensors_of("emu3"), HeadsConfig(1, 1), tmp_path / "heads.safetensors"
    backbone = find_weights(write(tmp_path / "two", "emu3", tensors, shards=2))
    write_tensors(path, {"w": jnp.zeros(1)}, jnp.float32, HEADS_FILE.metadata(config, backbone))
    for shards in (1, 2, 3):  # it is the same however it is split
        written = find_weights(write(tmp_path / str(shards), "emu3", tensors, shards))
        assert HEADS_FILE.read_config(path, written) == config
    tensors["model.norm.weight"] += 1
    with pytest.raises(WeightsError, match="trained on another backbone"):
        HEADS_FILE.read_config(path, find_weights(write(tmp_path / "other", "emu3", tensors, shards=2)))


# -- damage: each case changes a good folder of two shards


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("good") / "folder", "emu3", tensors_of("emu3"), shards=2)


def change_tensors(folder: Path, change) -> None:
    """Changes the shard that has `UP`, and the index with it."""
    index = folder / f"model.safetensors{INDEX_SUFFIX}"
    weight_map = json.loads(index.read_text())["weight_map"]
    shard = weight_map[UP]
    tensors = load_file(folder / shard)
    change(tensors)
    save_file(tensors, folder / shard)
    weight_map = {name: file for name, file in weight_map.items() if file != shard} | dict.fromkeys(tensors, shard)
    index.write_text(json.dumps({"weight_map": weight_map}))


def change_index(folder: Path, change) -> None:
    index = folder / f"model.safetensors{INDEX_SUFFIX}"
    values = json.loads(index.read_text())
    change(values["weight_map"])
    index.write_text(json.dumps(values))


def truncate(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-1])


def only_pickles(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x04N.")


def tensors(change):
    """Damage by a change of the tensors."""
    return lambda folder: change_tensors(folder, change)


def index(**changes):
    """Damage by entries of the index: a file's name, or None to take one out. `up` is `UP`."""

    def change(weight_map):
        for name, file in changes.items():
            weight_map[UP if name == "up" else name] = file
            if file is None:
                del weight_map[UP]

    return lambda folder: change_index(folder, change)


SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
DAMAGE = {
    "truncated": (truncate, f"{SHARDS[1]} is damaged"),
    "shard missing": (lambda folder: (folder / SHARDS[0]).unlink(), f"{SHARDS[0]} does not exist"),
    "renamed": (tensors(lambda t: t.update(up=t.pop(UP))), f"{UP!r} is missing"),
    "one more": (tensors(lambda t: t.update(bias=t[UP])), "'bias' is unexpected"),
    "dtype": (tensors(lambda t: t.update({UP: t[UP].astype(np.int8)})), f"{UP!r} has dtype I8"),
    "shape": (tensors(lambda t: t.update({UP: t[UP][1:]})), f"{UP!r} has shape (39, 24), but .* (40, 24)"),
    "not listed": (index(up=None), f"has the unlisted tensor {UP!r}"),
    "wrong shard": (index(other=SHARDS[0]), "lacks tensor 'other'"),
    "outside": (index(up="../secret.safetensors"), "'../secret.safetensors' is not the name of a file beside it"),
    "absolute": (index(up="/etc/passwd"), "'/etc/passwd' is not the name"),
    "pickled shard": (index(up="a.bin"), "a.bin is refused: .bin files are pickles"),
    "no index": (lambda folder: (folder / f"model.safetensors{INDEX_SUFFIX}").write_text("[]"), "is not an index"),
    "pickles": (only_pickles, "pytorch_model-00001-of-00002.bin is refused.*convert it to safetensors"),
    "nothing": (lambda folder: [path.unlink() for path in folder.glob("model*")], "model.safetensors does not exist"),
    "other names": (
        lambda folder: save_file({"wte": np.zeros(1)}, folder / "model.safetensors"),
        "no model of the family 'emu3'",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_before_anything_is_read(good, tmp_path, monkeypatch, case):
    damage, words = DAMAGE[case]
    folder = Path(shutil.copytree(good, tmp_path / "folder"))
    damage(folder)
    monkeypatch.setattr("ssd_jax.weights.tensors._read", lambda *_: pytest.fail("a tensor was read"))
    words = re.escape(words).replace(r"\.\*", ".*")
    with pytest.raises(WeightsError, match=words) as error:
        ssd_jax.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


# -- the hub


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("BAAI/Emu3-Gen", True),
        ("BAAI/Emu3-Gen@v1.0", True),
        ("BAAI/Emu3-Gen@refs/pr/3", True),
        ("BAAI/Emu3-Gen@", False),
        ("BAAI/Emu3-Gen@../x", False),
        ("BAAI/Emu3-Gen@v1/../../x", False),
        ("emoji", False),
        ("a/b/c", False),
        ("../x", False),
        ("/tmp", False),
        ("tests/x", False),
        ("tests/x@v1", False),
    ],
)
def test_hub_ids(source, expected):
    """`tests/x` would be one, but begins with a folder that is there."""
    assert hub.is_hub_id(source) == expected


def test_hub(monkeypatch, good, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(good))
    assert ssd_jax.load("someone/emu3").folder == good
    assert asked[0][0] == ("someone/emu3",) and not any("bin" in name or "py" in name for name in hub.FILES)
    assert ssd_jax.load(good, vq_weights="someone/vq").origin.vq_weights == good
    assert hub.find_local("no-hub-id") == Path("no-hub-id") and len(asked) == 2
    for options in ({"source": "someone/emu3@v2"}, {"source": "someone/emu3", "revision": "v2"}):
        ssd_jax.load(**options)
        arguments, named = asked.pop()
        assert arguments == ("someone/emu3",) and named["revision"] == "v2"
    assert asked[0][1]["revision"] is None
    for source in (good, str(good), "emoji", "someone/emu3@v1", "nonesuch"):
        with pytest.raises(UserError, match="revision='v2' is for a repository of the hub"):
            ssd_jax.load(source, revision="v2")
    with pytest.raises(UserError, match="'../v2' is no name of a branch"):
        ssd_jax.load("someone/emu3", revision="../v2")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.raises(WeightsError, match="'someone/emu3' has no safetensors files"):
        ssd_jax.load("someone/emu3")

    def offline(*arguments, **options):
        raise OSError("no connection\nand a long explanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(WeightsError, match="'someone/emu3' could not be downloaded .*: no connection$"):
        ssd_jax.load("someone/emu3")


@pytest.mark.parametrize("family", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_published_exported_and_loaded_again_is_bit_for_bit_the_same(tmp_path, family, dtype):
    """Matrices lie as the file has them, [out, in]; only axes that it stores as one are told apart."""
    stored = {name: tensor.astype(dtype) for name, tensor in tensors_of(family).items()}
    save_file(stored, tmp_path / "model.safetensors")
    config = config_of(family)
    like, naming = abstract_backbone(config), NAMINGS[family][-1]
    params = read_backbone(tmp_path / "model.safetensors", config, like, dtype)
    sources = find_sources(config, flatten(like), [naming.embedding])
    for name, leaf in flatten(params).items():
        tensor = stored[sources[name].name]
        if name == "visual_head":
            tensor = tensor[config.visual_offset : config.visual_offset + config.visual_size]
        np.testing.assert_array_equal(np.asarray(leaf).reshape(-1), tensor.reshape(-1), err_msg=name)
    write_tensors(tmp_path / "ours.safetensors", params, dtype)
    again = read_backbone(tmp_path / "ours.safetensors", config, like, dtype)
    for name, leaf in flatten(again).items():
        np.testing.assert_array_equal(leaf, flatten(params)[name], err_msg=name)
