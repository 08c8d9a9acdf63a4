"""Loading takes the memory of the model and of one tensor, not of the file besides; what is loaded needs no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from large_folder import large_folder, needs_clear_refs

from ssd_jax.weights.mapping import Source
from ssd_jax.weights.tensors import read_tensors

LOAD = """
import json, sys
import jax, jax.numpy as jnp
from pathlib import Path
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.weights.load import read_backbone, read_config
from ssd_jax.weights.store import find_weights
from ssd_jax.weights.tensors import finite

def resident(what):  # getrusage would tell the highest of the parent process, too
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024

folder = Path(sys.argv[1])
config, _ = read_config(folder)
like = abstract_backbone(config)
for dtype in (jnp.bfloat16, jnp.float32):
    jnp.ones(8, jnp.bfloat16).astype(dtype).block_until_ready()
    finite(jnp.ones((1024, 1024), jnp.bfloat16))  # what compiling takes the first time is no tensor's
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = resident("VmRSS")
    leaves = jax.tree.leaves(read_backbone(find_weights(folder), config, like, dtype))
    above = resident("VmHWM") - before
    print(json.dumps([above, sum(x.nbytes for x in leaves), max(x.nbytes for x in leaves)]))
    del leaves
"""


@needs_clear_refs
def test_loading_takes_the_memory_of_the_model_and_of_one_tensor(tmp_path):
    folder = large_folder(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, folder], text=True, capture_output=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    for line, dtype in zip(done.stdout.splitlines(), ("bfloat16", "float32"), strict=True):
        above, model, largest = json.loads(line)
        stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        assert model > 10 * largest
        # Twice the largest tensor more is what allocators may keep; the whole file besides would be far more.
        allowed = model + 3 * largest
        assert allowed < model + stored / 2
        assert above <= allowed, f"{dtype}: {above / 2**20:.0f} MiB for a model of {model / 2**20:.0f} MiB"


STORED = np.arange(4096, dtype=np.float32).reshape(64, 64)


def save_at(path: Path, start: int) -> None:
    """Writes `STORED` as the file's tensors "same" and "turned"; their bytes begin at byte `start`."""
    size = STORED.nbytes
    entries = {"same": [0, size], "turned": [size, 2 * size]}
    header = json.dumps({k: {"dtype": "F32", "shape": [64, 64], "data_offsets": v} for k, v in entries.items()})
    header = header.encode().ljust(start - 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + 2 * STORED.tobytes())


def read(path: Path) -> dict[str, jax.Array]:
    like = dict.fromkeys(("same", "turned"), jax.ShapeDtypeStruct(STORED.shape, STORED.dtype))
    return read_tensors(path, like, jnp.float32, {"same": Source("same"), "turned": Source("turned", "a b -> b a")})


@pytest.mark.parametrize("start", [512, 513])
def test_what_is_loaded_does_not_change_with_its_file(tmp_path, start):
    """Arrays on the CPU may share memory, which must not be the file's, at whatever byte its numbers begin."""
    path = tmp_path / "x.safetensors"
    save_at(path, start)
    params = read(path)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(2 * STORED.nbytes))
    np.testing.assert_array_equal(params["same"], STORED)
    np.testing.assert_array_equal(params["turned"], STORED.T)
