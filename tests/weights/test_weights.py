"""Checkpoint folders: reading returns what was written, and every kind of faulty file has its own error."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toy import random_vq

from ssd_jax.errors import UserError
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.draft_heads import DraftHeads, abstract_heads, init_heads
from ssd_jax.models.transformer import Transformer, abstract_backbone
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.weights import export
from ssd_jax.weights.export import write_config, write_heads_card, write_tensors
from ssd_jax.weights.load import fingerprint, read_config, read_metadata
from ssd_jax.weights.mapping import flatten, unflatten
from ssd_jax.weights.part_file import HEADS_FILE
from ssd_jax.weights.store import WeightsError
from ssd_jax.weights.tensors import read_tensors

MODEL = ModelConfig(
    vocab_size=40, visual_offset=8, visual_size=32, layers=2, width=32, mlp_width=64, heads=2, kv_heads=1,
    head_dim=16, rows=4, cols=4,
)  # fmt: skip
VQ = VQConfig(channels=16, multipliers=(1, 2), patch=2, groups=4, codebook_size=32, code_dim=4)
HEADS = HeadsConfig(horizontal=2, vertical=1)
Q = "block_0.attention.q"


def initialise(name: str):
    key = jax.random.key(0)
    if name == "model":
        params = jax.jit(Transformer(MODEL).init)(key, jnp.zeros((1, 4), jnp.int32))
    elif name == "vq":
        params = random_vq(VQ)
    else:
        params = init_heads(DraftHeads(HEADS, MODEL.width), key)
    return nn.meta.unbox(params)


ABSTRACT = {
    "model": lambda: abstract_backbone(MODEL),
    "vq": lambda: abstract_vq(VQ),
    "heads": lambda: abstract_heads(HEADS, MODEL.width),
}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def params():
    return initialise("model")


@pytest.fixture
def backbone(tmp_path, params):
    write_tensors(tmp_path / "model.safetensors", params, jnp.float32)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["model", "vq", "heads"])
def test_round_trip(tmp_path, name):
    params, like, path = initialise(name), ABSTRACT[name](), tmp_path / f"{name}.safetensors"
    write_tensors(path, params, jnp.float32)
    assert_same(read_tensors(path, like, jnp.float32), params)
    write_tensors(path, params, jnp.bfloat16)  # bfloat16 is a cast, whether at writing or at reading
    assert {x.dtype for x in load_file(path).values()} == {np.dtype(ml_dtypes.bfloat16)}
    cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert_same(read_tensors(path, like, jnp.bfloat16), cast)
    assert_same(read_tensors(path, like, jnp.float32), jax.tree.map(lambda x: x.astype(jnp.float32), cast))
    write_tensors(path, params, jnp.float32)
    assert_same(read_tensors(path, like, jnp.bfloat16), cast)


def test_loaded_parameters_run(backbone, params):
    ids = jnp.arange(4, dtype=jnp.int32)[None]
    loaded = read_tensors(backbone, abstract_backbone(MODEL), jnp.float32)
    forward = jax.jit(Transformer(MODEL).apply)
    np.testing.assert_array_equal(forward(loaded, ids), forward(params, ids))


def test_like_without_collection(backbone, params):
    shapes = abstract_backbone(MODEL)
    assert_same(read_tensors(backbone, shapes["params"], jnp.float32), params["params"])


def test_arrays_go_where_the_sharding_says(backbone, params):
    mesh = jax.make_mesh((1,), ("model",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), params)
    loaded = read_tensors(backbone, like, jnp.float32)
    assert all(x.sharding == sharding for x in jax.tree.leaves(loaded))


def test_integers_scalars_and_any_memory_order(tmp_path):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {"t": a.T, "f": np.asfortranarray(a), "i": np.arange(3, dtype=np.int8), "s": np.array(2.5, np.float32)}
    path = tmp_path / "x.safetensors"
    write_tensors(path, params, jnp.float32)
    like = jax.eval_shape(lambda: params)
    assert_same(read_tensors(path, like, jnp.float32), params)
    assert read_tensors(path, like, jnp.bfloat16)["i"].dtype == jnp.int8


def test_names(params):
    flat = flatten(params)
    assert {Q, "block_1.mlp.down", "final_norm.scale", "embedding"} <= set(flat)
    assert flatten(params["params"]).keys() == flat.keys()
    assert_same(unflatten(flat), params)
    with pytest.raises(ValueError, match="dot"):
        flatten({"a.b": np.zeros(1)})
    with pytest.raises(TypeError, match="'a'.*unbox"):
        flatten({"a": nn.LogicallyPartitioned(np.zeros(1), ("embed",))})


# What can be wrong with a file. Each case changes the flat tensors of a good one.
def without(tensors):
    del tensors[Q]


def with_more(tensors):
    tensors["block_2.attention.q"] = tensors[Q]


def transposed(tensors):
    tensors[Q] = np.ascontiguousarray(tensors[Q].transpose(2, 0, 1))


def as_integers(tensors):
    tensors[Q] = tensors[Q].astype(np.int32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without, [Q, "missing"]),
        (with_more, ["block_2.attention.q", "unexpected"]),
        (transposed, [Q, "(32, 2, 16)", "(2, 16, 32)"]),
        (as_integers, [Q, "I32", "F32"]),
    ],
)
def test_wrong_tensor(backbone, params, change, words):
    tensors = load_file(backbone)
    change(tensors)
    save_file(tensors, backbone)
    with pytest.raises(WeightsError) as error:
        read_tensors(backbone, abstract_backbone(MODEL), jnp.float32)
    assert all(word in str(error.value) for word in [str(backbone), *words]), error.value


def test_integers_are_not_read_from_floats(backbone, params):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.int8), params)
    with pytest.raises(WeightsError, match="'.*' has dtype F32, but I8"):
        read_tensors(backbone, like, jnp.float32)


def test_missing_tensors_are_counted(backbone, params):
    save_file({"embedding": np.zeros((40, 32), np.float32)}, backbone)
    with pytest.raises(WeightsError, match=rf"'block_0.*' is missing \(and {len(flatten(params)) - 2} more\)"):
        read_tensors(backbone, abstract_backbone(MODEL), jnp.float32)


def twice(data: bytes) -> bytes:
    """A file that names one tensor twice, with two values."""
    entry = '"embedding":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = ("{" + entry % (0, 4) + "," + entry % (4, 8) + "}").encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b[:100], lambda b: b"", lambda b: b + b"x", lambda b: b"PK\x03\x04" + b, twice],
    ids=["one byte short", "in the header", "empty", "one byte more", "zip", "name twice"],
)
def test_damaged_file(backbone, params, damage):
    backbone.write_bytes(damage(backbone.read_bytes()))
    for read in (lambda p: read_tensors(p, abstract_backbone(MODEL), jnp.float32), read_metadata, fingerprint):
        with pytest.raises(WeightsError, match="model.safetensors is damaged or not a safetensors file"):
            read(backbone)


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent.safetensors", "absent.safetensors does not exist"), ("", "cannot be read"), ("old.pt", "old.pt.*pickle")],
)
def test_no_such_file(tmp_path, name, words):
    (tmp_path / "old.pt").write_bytes(b"\x80\x04N.")
    with pytest.raises(WeightsError, match=words):
        read_tensors(tmp_path / name, {"a": jax.ShapeDtypeStruct((1,), jnp.float32)}, jnp.float32)


def test_failing_write_leaves_the_old_file(backbone, params, monkeypatch):
    write_config(backbone.parent, MODEL, VQ)
    before = {path: path.read_bytes() for path in backbone.parent.iterdir()}

    def half(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(export, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        write_tensors(backbone, params, jnp.float32)
    with pytest.raises(TypeError):
        write_config(backbone.parent, dataclasses.replace(MODEL, width=object()), VQ)
    assert {path: path.read_bytes() for path in backbone.parent.iterdir()} == before


def test_file_mode_follows_the_umask(backbone):
    plain = backbone.with_name("plain")
    plain.touch()
    assert backbone.stat().st_mode == plain.stat().st_mode


def test_config_round_trip(tmp_path):
    write_config(tmp_path / "new", MODEL, VQ)
    assert read_config(tmp_path / "new") == (MODEL, VQ)
    text = (tmp_path / "new" / "config.json").read_text()
    assert text.startswith('{\n  "format": "ssd_jax-2",\n  "model": {\n') and text.endswith("}\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "ssd_jax-9"}, "format must be 'ssd_jax-2', not 'ssd_jax-9'"),
        ({"format": None}, "format must be 'ssd_jax-2'"),
        ({"format": "ssd_jax-1"}, "with its matrices the other way round; export it anew"),
        ({"model": None}, "section 'model' is missing"),
        ({"vq": None}, "section 'vq' is missing"),
        ({"model": {"vocab_size": 40}}, "model: field 'visual_offset' is missing"),
        ({"vq": {"chanels": 1}}, "vq: unknown field 'chanels'"),
        ({"vq": 3}, "vq: expected an object"),
    ],
)
def test_wrong_config(tmp_path, change, words):
    write_config(tmp_path, MODEL, VQ)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    with pytest.raises(UserError) as error:
        read_config(tmp_path)
    assert str(path) in str(error.value) and words in str(error.value)


def test_absent_config(tmp_path):
    with pytest.raises(UserError, match="config.json does not exist"):
        read_config(tmp_path)


def nudged(params):
    """The parameters with one entry of one norm scale changed."""
    flat = flatten(params)
    return unflatten(flat | {"final_norm.scale": flat["final_norm.scale"].at[3].add(0.25)})


def test_fingerprint(backbone, params):
    first = fingerprint(backbone)
    assert len(first) == 64
    for dtype in (jnp.float32, jnp.bfloat16):  # of the file, however it is loaded
        read_tensors(backbone, abstract_backbone(MODEL), dtype)
        assert fingerprint(backbone) == first
    write_tensors(backbone, params, jnp.float32, {"note": "metadata does not count"})
    assert fingerprint(backbone) == first
    write_tensors(backbone, nudged(params), jnp.float32)
    assert fingerprint(backbone) != first


def test_heads_know_their_backbone(backbone, params):
    path = backbone.with_name("heads.safetensors")
    heads = initialise("heads")
    write_tensors(path, heads, jnp.bfloat16, HEADS_FILE.metadata(HEADS, backbone))
    assert set(read_metadata(path)) == {"heads"}
    assert read_metadata(backbone) == {}
    assert HEADS_FILE.read_config(path, backbone) == HEADS
    write_tensors(backbone, nudged(params), jnp.float32)
    with pytest.raises(WeightsError, match="heads.safetensors: .*trained on another backbone than .*model.safetensors"):
        HEADS_FILE.read_config(path, backbone)


def test_a_folder_may_have_several_heads_by_name(tmp_path, monkeypatch):
    for name in ("heads.safetensors", "heads-old.safetensors"):
        (tmp_path / name).touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert HEADS_FILE.choose(None, tmp_path) == tmp_path / "heads.safetensors"
    assert HEADS_FILE.choose(Path("old"), tmp_path) == tmp_path / "heads-old.safetensors"
    with pytest.raises(WeightsError, match="^new does not exist; by name there is old.$"):
        HEADS_FILE.choose(Path("new"), tmp_path)
    for given in (Path("./a/old"), tmp_path / "heads-old.safetensors"):
        assert HEADS_FILE.choose(given, tmp_path) == given
    (elsewhere / "old").mkdir()  # what is there comes first
    assert HEADS_FILE.choose(Path("old"), tmp_path) == Path("old/heads.safetensors")


def test_heads_have_a_card(backbone):
    write_heads_card(backbone.with_name("heads.safetensors"), HeadsConfig(4, 3, context=1), backbone)
    card = backbone.with_name("README.md").read_text()
    assert "4 heads to the right and 3 down (context: 1)" in card and fingerprint(backbone) in card
    assert "sample.py --weights=BACKBONE --heads=DIR" in card and "{" not in card


def test_equal_weights_give_equal_bytes(backbone, params):
    """Several entries would be written in the order of a hash table, which is another one in every process."""
    with pytest.raises(ValueError, match="one metadata entry"):
        write_tensors(backbone, params, jnp.float32, {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "metadata 'heads' is missing"),
        ("{", "metadata 'heads' is not JSON"),
        ("[]", "metadata 'heads' is not JSON with 'config' and 'backbone'"),
        ('{"config": {}}', "metadata 'heads' is not JSON with 'config' and 'backbone'"),
        ('{"format": "ssd_jax-2", "config": {"diagonal": 1}, "backbone": ""}', "unknown field 'diagonal'"),
        ('{"config": {}, "backbone": ""}', "format must be 'ssd_jax-2', not None (an earlier version of ssd_jax wrote"),
        ('{"format": "ssd_jax-9", "config": {}, "backbone": ""}', "format must be 'ssd_jax-2', not 'ssd_jax-9'."),
    ],
)
def test_wrong_heads_metadata(backbone, text, words):
    path = backbone.with_name("heads.safetensors")
    save_file({"w0": np.zeros(1)}, path, None if text is None else {"heads": text})
    with pytest.raises(UserError) as error:
        HEADS_FILE.read_config(path, backbone)
    assert str(path) in str(error.value) and words in str(error.value)
