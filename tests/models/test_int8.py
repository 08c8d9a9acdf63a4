"""int8 weights: what is rounded and how far, sums that are exact, exact decoders against int8 `ar`, memory."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from large_folder import large_folder, needs_clear_refs

import ssd_jax
from ssd_jax import UserError
from ssd_jax.models.int8 import LARGEST, SUFFIX, Int8, multiply, quantised, scales
from ssd_jax.models.matmul import FEWEST, Products
from ssd_jax.models.transformer import Transformer
from ssd_jax.sequence.cache import CacheSpec
from ssd_jax.weights.mapping import flatten

RNG = np.random.default_rng(0)


def test_a_weight_is_rounded_to_the_nearest_step_of_its_output():
    weight = jnp.asarray(RNG.normal(size=(3, 5, 64)), jnp.float32)
    values, scale = quantised(weight)
    assert values.dtype == jnp.int8 and scale.shape == (3, 5)
    np.testing.assert_allclose(scale, np.abs(weight).max(-1) / LARGEST, rtol=1e-6)
    assert (np.abs(values.astype(jnp.float32) * scale[..., None] - weight) <= scale[..., None] * 0.5001).all()
    assert (np.abs(values).max(-1) == LARGEST).all()


def test_several_axes_of_inputs_share_a_scale():
    weight = jnp.asarray(RNG.normal(size=(6, 2, 8)), jnp.float32)
    whole, flat = quantised(weight, inner=2), quantised(weight.reshape(6, 16))
    assert (whole.values.reshape(6, 16) == flat.values).all() and (whole.scale == flat.scale).all()


def test_a_product_by_hand():
    """Rows [1, -2] -> steps of 2/127 -> [64, -127]; outputs w = [1, 0.5] -> [127, 64] (63.5 to even), [0, 0] -> 0."""
    weight = quantised(jnp.array([[1.0, 0.5], [0.0, 0.0]]))
    assert weight.values.tolist() == [[127, 64], [0, 0]]
    out = multiply(jnp.array([[1.0, -2.0], [0.0, 0.0]]), weight)
    assert out[0].tolist() == pytest.approx([(64 * 127 - 127 * 64) * 2 / 127 / 127, 0])
    assert out[1].tolist() == [0, 0]  # a row of zeros has no scale to divide by


@pytest.mark.parametrize("rows", [1, FEWEST - 1, 48])
def test_products_are_near_those_of_float32(rows):
    """Two roundings of a relative 1/254 of the largest number at most, added up at random over 512 inputs."""
    weight, x = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((96, 512), (rows, 512)))
    exact, ours = Products().linear(x, weight), Products().linear(x, quantised(weight))
    error = float(jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact))
    assert 1e-4 < error < 0.015


def test_sums_do_not_depend_on_their_order():
    weight, x = jnp.asarray(RNG.normal(size=(64, 256)), jnp.float32), jnp.asarray(RNG.normal(size=(8, 256)))
    order = RNG.permutation(256)
    turned = multiply(x[:, order], quantised(weight[:, order]))
    assert (turned == multiply(x, quantised(weight))).all()
    alone = jnp.concatenate([Products().linear(row[None], quantised(weight)) for row in x])
    assert (alone == turned).all()
    # A control: float32 sums do depend on it.
    assert (Products().linear(x[:, order], weight[:, order]) != Products().linear(x, weight)).any()


@pytest.fixture(scope="module")
def int8(headed_folder):
    return ssd_jax.load(headed_folder, dtype=jnp.float32, quantize="int8")


def test_what_is_quantised(int8, headed):
    for params, originals in ((int8.params, headed.params), (int8.heads_params, headed.heads_params)):
        leaves, floats = flatten(params), flatten(originals)
        assert leaves.keys() - scales(leaves) == floats.keys()
        for name, weight in floats.items():
            if name + SUFFIX not in leaves:
                assert (leaves[name] == weight).all()
                continue
            inner = 2 if name.endswith("attention.o") else 1
            assert all(
                (a == b).all()
                for a, b in zip((leaves[name], leaves[name + SUFFIX]), quantised(weight, inner), strict=True)
            )
        kept = {name.split(".")[-1] for name in floats if name + SUFFIX not in leaves}
        assert kept == {"embedding", "visual_head", "scale"} or kept == {"norm"}
    assert int8.numerics()["quantize"] == "int8" and "quantize" not in headed.numerics()


@pytest.mark.parametrize("decoder", ["ssd-exact", "jacobi-above"])
def test_exact_decoders_draw_the_pictures_of_int8_ar(int8, headed, decoder):
    options = dict(num_images=3, seed=5, pixels=False)
    ar = int8.generate(["red apple", "dog"], decoder="ar", **options).tokens
    assert (int8.generate(["red apple", "dog"], decoder=decoder, **options).tokens == ar).all()
    # A control: they are not those of the float32 model.
    assert (headed.generate(["red apple", "dog"], decoder="ar", **options).tokens != ar).any()


def test_teacher_forced_logits_are_near(int8, headed):
    codes = RNG.integers(0, 64, (2, 16)).astype(np.int32)
    ids = np.array([[2, 5, 3]] * 2)
    close, exact = (np.asarray(pipe.visual_logits(ids, codes)) for pipe in (int8, headed))
    assert 0 < np.abs(close - exact).max() < 0.1 * np.abs(exact).max()


def test_without_a_cache_keys_are_kept_as_a_cache_would_keep_them(headed_folder):
    """What teacher forcing says is what decoding sees: bfloat16 keys and values beside int8 weights."""
    pipe = ssd_jax.load(headed_folder, dtype=jnp.bfloat16, quantize="int8")
    model, W = Transformer(pipe.config), 6
    positions, mask = jnp.arange(W, dtype=jnp.int32)[None], jnp.tri(W, dtype=bool)[None]
    x = model.apply(pipe.params, positions + 20, method="embed")
    c = pipe.config
    cache = CacheSpec(c.layers, 1, c.kv_heads, W, c.head_dim, pipe.dtype).zeros()
    alone, _ = model.apply(pipe.params, x, positions, mask, method="hidden")
    cached, _ = model.apply(pipe.params, x, positions, mask, positions, cache, method="hidden")
    assert float(jnp.abs(alone - cached).max()) < 1e-5
    # A control: a float32 cache gives other states.
    wide = CacheSpec(c.layers, 1, c.kv_heads, W, c.head_dim, jnp.float32).zeros()
    exact, _ = model.apply(pipe.params, x, positions, mask, positions, wide, method="hidden")
    assert float(jnp.abs(alone - exact).max()) > 1e-4


def test_another_way_to_quantise_is_one_sentence(headed_folder, command_line):
    with pytest.raises(UserError, match="Unknown quantize 'int4'; choose one of int8"):
        ssd_jax.load(headed_folder, quantize="int4")
    code, out, err = command_line(f"--weights={headed_folder}", "--quantize=int4")
    assert (code, out, err) == (2, "", "error: Unknown quantize 'int4'; choose one of int8.\n")


def test_a_stack_of_weights_is_cut_along_its_first_axis():
    stack = quantised(jnp.asarray(RNG.normal(size=(3, 4, 8)), jnp.float32))
    assert isinstance(stack[1], Int8) and stack[1].shape == (4, 8) and (stack[1].scale == stack.scale[1]).all()


MEMORY = """
import json, sys
import jax
from pathlib import Path
from ssd_jax.models.transformer import boxed_backbone
from ssd_jax.parallel.mesh import abstract
from ssd_jax.weights.load import read_backbone, read_config
from ssd_jax.weights.store import find_weights

def resident(what):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024

folder = Path(sys.argv[1])
config, _ = read_config(folder)
like = abstract(boxed_backbone(config), None, "bfloat16", "int8")
load = lambda: jax.tree.leaves(read_backbone(find_weights(folder), config, like, "bfloat16"))
load()  # compiles
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
leaves = load()
above = resident("VmHWM") - before
print(json.dumps([above, sum(x.nbytes for x in leaves), 4 * max(x.size for x in leaves)]))
"""


@needs_clear_refs
def test_quantising_takes_the_memory_of_the_int8_model_and_of_one_tensor(tmp_path):
    folder = large_folder(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEMORY, folder]
    done = subprocess.run(command, text=True, capture_output=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    above, model, largest = json.loads(done.stdout)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert model < 0.6 * stored
    # The largest tensor as float32, twice, is what rounding it takes; the bfloat16 model besides would be far more.
    allowed = model + 2.5 * largest
    assert allowed < model + stored / 2 and above <= allowed, f"{above / 2**20:.0f} of {allowed / 2**20:.0f} MiB"
