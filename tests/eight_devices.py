"""Runs models on one and on eight simulated devices: python eight_devices.py FOLDER OTHER... -> JSON.

With the first it draws and trains draft heads, with the others it compares logits alone. Run by test_sharding.py.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")

from ssd_jax import load  # noqa: E402
from ssd_jax.data.prompted_codes import PromptedCodes  # noqa: E402
from ssd_jax.models import teacher_forcing  # noqa: E402
from ssd_jax.models.block import RECOMPUTED  # noqa: E402
from ssd_jax.models.branch import boxed_branch, init_branch  # noqa: E402
from ssd_jax.models.config import BranchConfig, HeadsConfig  # noqa: E402
from ssd_jax.models.forked import Forked  # noqa: E402
from ssd_jax.models.loaded_model import LoadedModel  # noqa: E402
from ssd_jax.models.transformer import boxed_backbone  # noqa: E402
from ssd_jax.parallel.mesh import place, using  # noqa: E402
from ssd_jax.parallel.train_state import spread, state_shardings  # noqa: E402
from ssd_jax.pipeline.model_sizes import Models  # noqa: E402
from ssd_jax.pipeline.pipeline import Pipeline  # noqa: E402
from ssd_jax.pipeline.random_weights import load_random  # noqa: E402
from ssd_jax.sequence.layout import Grid  # noqa: E402
from ssd_jax.training.branch import Forking, branch_task  # noqa: E402
from ssd_jax.training.draft_loss import Overlap, SmoothL1  # noqa: E402
from ssd_jax.training.head_training import DraftHeadsSpec, Frozen, draft_task, untrained  # noqa: E402
from ssd_jax.training.spec import BranchSpec, PromptedSpec  # noqa: E402
from ssd_jax.training.step import init_state, make_optimizer, make_step  # noqa: E402
from ssd_jax.weights.load import read_config  # noqa: E402
from ssd_jax.weights.mapping import flatten  # noqa: E402

PROMPTS = ["red apple", "green heart", "dog", "cat", "fire"]
"""So many that no activation has the shape of a weight."""
RUNS = {
    "data:2,model:4": ("ar", "ssd", "ssd-exact", "ssd-tree", "sjd-pac", "ssd-wave", "mtp"),
    "data:4,model:2": ("ar",),
}
"""On the first mesh the two key/value heads are whole on every device, on the second they are split."""


def collectives(hlo: str) -> dict[str, list[list[int]]]:
    """Kind -> shapes of what every collective of a program gives; one may give several arrays."""
    found = re.findall(r"= (\(.*?\)|\S+) (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", hlo)
    kinds = {kind: [] for _, kind in found}
    for given, kind in found:
        for shape in re.findall(r"\w+\[([\d,]*)\]", given):
            kinds[kind].append([int(size) for size in shape.split(",") if size])
    return kinds


def logits_differ(one: Pipeline, many: Pipeline) -> float:
    """The largest difference of their teacher-forced logits and guided likelihoods, for some prompts and codes: those
    of one device from the whole sequence, those of many from it and from windows of a few tokens."""
    codes = np.arange(2 * one.config.rows * one.config.cols, dtype=np.int32).reshape(2, -1) * 7 % one.config.visual_size
    ids = np.array([[1, 2], [3, 2], [1, 3], [1, 3]])

    def measured(pipe: Pipeline) -> list[np.ndarray]:
        logits = pipe.visual_logits(ids[:2], codes)
        return [np.asarray(x) for x in (logits, pipe.visual_nll(ids, codes, cfg_scale=2.0))]

    expected, whole = measured(one), measured(many)
    with mock.patch.object(teacher_forcing, "LIMIT", 500):
        assert teacher_forcing.window_of(many.config, Grid(many.config.rows, many.config.cols), 2, 2) < 5
        windows = measured(many)
    return max(float(abs(a - b).max()) for found in (whole, windows) for a, b in zip(found, expected, strict=True))


# Six images on a device at a time: no activation then has the shape of a weight.
STEP = dict(
    batch=24, accumulation=2, eval_images=4, steps=2, lr=1e-2, warmup=0, decay=0.5, clip=1.0, weight_decay=0.01,
    b2=0.99, log_every=1, save_every=1, caption_drop=0.1,
)  # fmt: skip


def images_of(pipe: Pipeline) -> PromptedCodes:
    """28 images of any codes."""
    codes = np.arange(28 * pipe.config.rows * pipe.config.cols, dtype=np.int32).reshape(28, -1) * 7
    return PromptedCodes(codes % pipe.config.visual_size, np.arange(28), [([1, 2], [1])] * 28, 0, heldout=4)


def branch_training(pipe: Pipeline) -> list[dict[str, float]]:
    """The numbers of one step of both phases of a branch's training, the first in windows of diagonals."""
    config, grid, out = pipe.config, Grid(pipe.config.rows, pipe.config.cols), []
    forked = Forked(config, BranchConfig(1), block=RECOMPUTED)
    spec = BranchSpec(**STEP, code_noise=0.1, code_blind=0.0, code_noise_from=0, vertical=0.5, distillation=0.2,
                      temperature=2.0, backbone_rate=0.5)  # fmt: skip
    shapes = {"backbone": boxed_backbone(config), "branch": boxed_branch(config, BranchConfig(1))}
    with using(pipe.mesh, config):
        copies = jax.jit(lambda params: init_branch(config, BranchConfig(1), params, jax.random.key(0)))
        alone = {"branch": copies(pipe.params)}
        for start in (alone, {"backbone": pipe.params, **alone}):
            placed = None if pipe.mesh is None else {part: place(shapes[part], pipe.mesh) for part in start}
            forking = Forking(forked, forked, grid, 5, pipe.mesh, placed, limit=2 * 24 * grid.cols)
            task = branch_task("branch", forking, spec, 0, images_of(pipe), pipe.params, start)
            optimizer = make_optimizer(spec, task.matrices, task.rates)
            abstract = jax.eval_shape(lambda start=start: init_state(start, optimizer))  # noqa: B023 - called here
            shardings = None if pipe.mesh is None else state_shardings(abstract, task.placed, pipe.mesh)
            state = jax.jit(init_state, static_argnums=1, out_shardings=shardings)(start, optimizer)
            step = make_step(task.loss, optimizer, 0, None, task.accumulation, shardings)
            _, metrics = step(state, task.frozen, spread(task.batch(0), pipe.mesh))
            out.append({name: float(value) for name, value in metrics.items()} | task.evaluate(start))
    return out


def head_training(pipe: Pipeline) -> list[dict]:
    """One step of each part of the draft heads' training: its loss, what travels, and the parts of its state."""
    grid, source = Grid(pipe.config.rows, pipe.config.cols), images_of(pipe)
    part = PromptedSpec(**STEP)
    spec = DraftHeadsSpec(pipe.heads, part, part, seed=0, window=4, report_images=4)
    frozen = Frozen(LoadedModel(pipe.params, pipe.config), grid, Path("unused"), pipe.mesh)
    begun, out = untrained(frozen.drafting(spec), pipe.mesh), []
    parts = ("heads", SmoothL1(), None), ("overlap", Overlap(), begun)
    with using(pipe.mesh, pipe.config):
        for name, objective, start in parts:
            task = draft_task(name, objective, frozen, source, spec, part, start)
            optimizer = make_optimizer(part, task.matrices)
            abstract = jax.eval_shape(lambda: init_state(begun, optimizer))  # noqa: B023 - called here
            shardings = None if pipe.mesh is None else state_shardings(abstract, task.placed, pipe.mesh)
            state = jax.jit(init_state, static_argnums=1, out_shardings=shardings)(begun, optimizer)
            shapes = [(x.shape, x.addressable_shards[0].data.shape) for x in jax.tree.leaves(state)]
            step = make_step(task.loss, optimizer, 0, None, task.accumulation, shardings)
            batch = spread(task.batch(0), pipe.mesh)
            compiled = step.lower(state, task.frozen, batch).compile()
            state, metrics = compiled(state, task.frozen, batch)
            numbers = {name: float(value) for name, value in metrics.items()}
            numbers["size"] = float(sum(abs(x).sum() for x in jax.tree.leaves(state.params)))
            out.append({"numbers": numbers, "collectives": collectives(compiled.as_text()), "shapes": shapes})
    return out


def random_models(folder: str) -> dict[str, bool]:
    """Whether random weights, with and without int8, are those of one device, and so are the tokens drawn with them."""
    (backbone, tokenizer), out = read_config(folder), {}
    models = Models(backbone, HeadsConfig(2, 1), tokenizer, BranchConfig(1))
    for quantize in (None, "int8"):
        one, many = (
            load_random(models, dtype="float32", mesh=mesh, quantize=quantize) for mesh in (None, "data:2,model:4")
        )
        pairs = zip(*(jax.tree.leaves(pipe.model) for pipe in (one, many)), strict=True)
        out[f"weights, {quantize}"] = all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)
        for decoder in ("pjd", "flash") if quantize is None else ("ssd", "flash"):
            tokens = [pipe.generate(PROMPTS, decoder=decoder, pixels=False).tokens for pipe in (one, many)]
            out[f"tokens of {decoder}, {quantize}"] = bool((tokens[0] == tokens[1]).all())
    return out


def main(folder: str, *others: str) -> None:
    one, out = load(folder, dtype="float32"), []
    expected = {name: one.generate(PROMPTS, decoder=name, pixels=False) for name in RUNS["data:2,model:4"]}
    for mesh, decoders in RUNS.items():
        pipe = load(folder, dtype="float32", mesh=mesh)
        parts = {name: leaf.addressable_shards[0].data.shape for name, leaf in flatten(pipe.params).items()}
        for decoder in decoders:
            made = pipe.generate(PROMPTS, decoder=decoder, pixels=False)
            hlo = next(iter(pipe.programs.compiled.values())).as_text()
            pipe.programs.compiled.clear()
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
    differences = [
        logits_differ(load(other, "float32"), load(other, "float32", "data:2,model:4")) for other in (folder, *others)
    ]
    kinds = Counter(device.platform for device in jax.devices())
    training = [head_training(pipe) for pipe in (one, load(folder, dtype="float32", mesh="data:2,model:4"))]
    deeper = others[0]  # with a block below the branch
    branches = [branch_training(load(deeper, dtype="float32", mesh=mesh)) for mesh in (None, "data:2,model:4")]
    found = {"random": random_models(folder), "runs": out, "logits_differ": differences, "kinds": kinds}
    print(json.dumps({**found, "training": training, "branches": branches}))


if __name__ == "__main__":
    main(*sys.argv[1:])
