"""Measures the quality of decoders' images: likelihood under the verifier, distance to ancestral samples, retrieval.

Every decoder decodes the same N (prompt, seed) pairs. Differences are paired with the images of another decoder for the
same pairs. Distances are from a decoder's images to `ar` images of the same prompts and *other* seeds; so those of `ar`
itself are 0 up to noise, and a decoder that gives `ar`'s images has exactly its numbers. Intervals are over prompts:
they cover what other prompts might have given.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ssd_jax.bench.speed import agreement
from ssd_jax.decode.ar import AR
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import most_inputs
from ssd_jax.eval.distances import DIMS, ENOUGH, frechet_distance, kernel_distance, principal_axes
from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.features import features, load_network
from ssd_jax.eval.gallery import Gallery
from ssd_jax.eval.likelihood import token_nll
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.sequence.layout import Grid

REFERENCE_SEED, AXES_SEED = 1_000_000, 2_000_000
"""First seeds of the reference images, and of those that give the axes of the Fréchet distance."""

Painter = tuple[Pipeline, Decoder]
"""A model and a decoder to compare; models may differ in their numerics, in what was trained beside the backbone, and
in the backbone, but not in image tokenizer and grid."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The images that every painter (model and decoder) decodes.

    Attributes:
        prompts: N texts, one for every image.
        batch: images at once.
        fresh: bool [N], prompts on which no option of a decoder was ever chosen; None: unknown.
        gallery: reference images for retrieval, or None.
        distances: whether to compute features, which need the extra [eval].
    """

    prompts: Sequence[str]
    batch: int
    fresh: np.ndarray | None = None
    gallery: Gallery | None = None
    distances: bool = True

    @property
    def numbers(self) -> np.ndarray:
        """The prompt of every image as a number, int64 [N]; equal texts have one."""
        return np.unique(list(self.prompts), return_inverse=True)[1]


class Drawn(NamedTuple):
    """A painter's images: codes int32 [N, R, C], passes int32 [N], and the mean NLL of every image, [N]."""

    tokens: np.ndarray
    passes: np.ndarray
    nll: np.ndarray


def measure_quality(
    pipe: Pipeline, painters: dict[str, Painter], baseline: str, task: Task, against: str | None = None
) -> tuple[dict[str, dict[str, Any]], list[str], np.ndarray]:
    """One dict of numbers per painter, notes, and the baseline's codes, [N, R, C].

    Args:
        pipe: the model whose distribution is the reference, with its own guidance, at temperature 1.
        painters: by name.
        baseline: name of the painter with which the others are compared.
        task: the images to decode.
        against: name of another painter to compare with.
    """
    bar = tqdm(
        total=len(task.prompts) * (len(painters) + 2 * task.distances),
        desc="quality",
        unit="image",
        dynamic_ncols=True,
    )
    with bar:
        drawn = {name: draw(*painter, task, 0, bar) for name, painter in painters.items()}
        if task.distances:
            others = [draw(pipe, AR(), task, seed, bar)[0] for seed in (REFERENCE_SEED, AXES_SEED)]
    found = {
        name: Drawn(*both, token_nll(pipe, task.prompts, both[0], batch=task.batch).mean(1))
        for name, both in drawn.items()
    }
    rows = {name: _row(task, one, found[baseline]) for name, one in found.items()}
    for name, row in rows.items():
        painter, decoder = painters[name]
        grid = Grid(*found[name].tokens.shape[1:])
        row["lossless"] = decoder.lossless and painter.fingerprint() == pipe.fingerprint()
        row["inputs"] = most_inputs(decoder.stretches(grid, painter.head_counts[0]))
        if against is not None:
            row["nll against"] = Estimate.mean(found[name].nll - found[against].nll, task.numbers)
            row["passes against"] = Estimate.mean(found[name].passes - found[against].passes, task.numbers)
    notes = []
    if against is not None:
        notes.append(f"The columns against are paired differences to {against}.")
    if task.fresh is not None:
        notes.append(f"Fresh: the {task.fresh.sum()} images of prompts on which no option of a decoder was chosen.")
    if task.distances:
        notes += _distances(pipe, task, rows, found, *others)
    return rows, notes, found[baseline].tokens


def draw(pipe: Pipeline, decoder: Decoder, task: Task, first_seed: int, bar: Any = None) -> tuple[np.ndarray, ...]:
    """Codes int32 [N, R, C] and passes [N]; image i has seed first_seed + i."""
    outs, count = [], len(task.prompts)
    for start in range(0, count, task.batch):
        # A short last batch is padded, so that it does not recompile.
        rows = np.resize(np.arange(start, min(start + task.batch, count)), task.batch)
        seeds = [first_seed + int(row) for row in rows]
        outs.append(pipe.generate([task.prompts[row] for row in rows], decoder=decoder, seed=seeds, pixels=False))
        if bar is not None:
            bar.update(min(task.batch, count - start))
    return tuple(np.concatenate([getattr(out, name) for out in outs])[:count] for name in ("tokens", "passes"))


def _row(task: Task, one: Drawn, baseline: Drawn) -> dict[str, Any]:
    numbers, difference = task.numbers, one.nll - baseline.nll
    row = dict(zip(("equal tokens", "equal pictures"), agreement(one.tokens, baseline.tokens), strict=True)) | {
        "passes": float(one.passes.mean()),
        "mean passes": Estimate.mean(one.passes, numbers),
        "nll": Estimate.mean(one.nll, numbers),
        "nll difference": Estimate.mean(difference, numbers),
    }
    if task.fresh is not None:
        row["fresh passes"] = Estimate.mean(one.passes[task.fresh], numbers[task.fresh])
        row["fresh nll difference"] = Estimate.mean(difference[task.fresh], numbers[task.fresh])
    return row


def _distances(
    pipe: Pipeline,
    task: Task,
    rows: dict[str, dict[str, Any]],
    drawn: dict[str, Drawn],
    reference: np.ndarray,
    others: np.ndarray,
) -> list[str]:
    """Adds KID, FD and retrieval to the rows of the table; returns notes on them."""
    network, count = load_network(), len(reference)

    def look(tokens: np.ndarray) -> np.ndarray:
        return features(network, pipe.decode(tokens))

    seen = {name: look(one.tokens) for name, one in drawn.items()}
    to, axes = look(reference), principal_axes(look(others))
    for name, found in seen.items():
        rows[name]["kid"] = kernel_distance(found, to, task.numbers)
        if count >= ENOUGH:
            rows[name]["fd"] = frechet_distance(found, to, task.numbers, axes)
    which = f"KID and FD ({DIMS} principal axes)" if count >= ENOUGH else f"KID (FD needs {ENOUGH} images)"
    notes = [f"{which} to {count} `ar` images of the same prompts, other seeds."]
    if task.gallery is not None:
        shares, note = task.gallery.find(pipe, network, task.prompts, seen)
        notes.append(note)
        for name, share in shares.items():
            rows[name] |= {"r@1": share[1], "r@5": share[5]}
    return notes
