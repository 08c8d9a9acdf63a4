"""Runs models on one and on eight simulated devices: python eight_devices.py FOLDER OTHER... -> JSON.

With the first it draws, with the others it compares logits alone. Run by test_sharding.py.
"""

import json
import re
import sys
from collections import Counter

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")

from ssd_jax import load  # noqa: E402
from ssd_jax.pipeline import Pipeline  # noqa: E402
from ssd_jax.weights.mapping import flatten  # noqa: E402

PROMPTS = ["red apple", "green heart", "dog"]
RUNS = {"data:2,model:4": ("ar", "ssd", "ssd-exact", "ssd-wave"), "data:4,model:2": ("ar",)}
"""On the first mesh the two key/value heads are whole on every device, on the second they are split."""


def collectives(hlo: str) -> dict[str, list[list[int]]]:
    """Kind -> shapes of what every collective of a program gives."""
    found = re.findall(r"= \w+\[([\d,]*)\]\S* (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", hlo)
    kinds = {kind: [] for _, kind in found}
    for shape, kind in found:
        kinds[kind].append([int(size) for size in shape.split(",") if size])
    return kinds


def logits_differ(one: Pipeline, many: Pipeline) -> float:
    """The largest difference of their teacher-forced logits, for some prompts and codes."""
    codes = np.arange(2 * one.config.rows * one.config.cols, dtype=np.int32).reshape(2, -1) * 7 % one.config.visual_size
    each = (np.asarray(pipe.visual_logits([[1, 2], [3, 2]], codes)) for pipe in (one, many))
    return float(abs(np.subtract(*each)).max())


def main(folder: str, *others: str) -> None:
    one, out = load(folder), []
    expected = {name: one.generate(PROMPTS, decoder=name) for name in RUNS["data:2,model:4"]}
    for mesh, decoders in RUNS.items():
        pipe = load(folder, mesh=mesh)
        parts = {name: leaf.addressable_shards[0].data.shape for name, leaf in flatten(pipe.params).items()}
        for decoder in decoders:
            made = pipe.generate(PROMPTS, decoder=decoder)
            hlo = next(iter(pipe._programs.values())).as_text()
            pipe._programs.clear()
            cache = re.search(r"f32\[(\d+,\d+,\d+,8)\]\S* parameter\(", hlo)
            copies = re.findall(rf"f32\[{cache[1]}\]\S* copy(?:-start)?\(", hlo[hlo.index("%") : hlo.index("\nENTRY")])
            out.append(
                {
                    "mesh": mesh,
                    "decoder": decoder,
                    "same_tokens": bool((made.tokens == expected[decoder].tokens).all()),
                    "same_passes": bool((made.passes == expected[decoder].passes).all()),
                    "collectives": collectives(hlo),
                    "cache": [int(size) for size in cache[1].split(",")],
                    "cache_copies": len(copies),
                    "parts": parts,
                }
            )
    differences = [logits_differ(load(other), load(other, mesh="data:2,model:4")) for other in (folder, *others)]
    kinds = Counter(device.platform for device in jax.devices())
    print(json.dumps({"runs": out, "logits_differ": differences, "kinds": kinds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
