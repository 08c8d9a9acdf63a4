"""What decoders' pictures are worth: likelihood under the verifier, distance to ancestral samples, retrieval.

Every decoder draws the same N (prompt, seed) pairs. Differences in likelihood are paired with `ar`'s pictures of the
same pairs. Distances go from a decoder's pictures to `ar` pictures of the same prompts and *other* seeds; so the row of
`ar` itself is the floor, and a decoder that gives `ar`'s pictures has exactly its numbers.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.bench.speed import agreement
from ssd_jax.decode.ar import AR
from ssd_jax.decode.presets import Decoder, is_lossless
from ssd_jax.errors import UserError
from ssd_jax.eval.features import features, load_network
from ssd_jax.eval.likelihood import token_nll
from ssd_jax.eval.metrics import Estimate, frechet_distance, kernel_distance, principal_axes, retrieval
from ssd_jax.pipeline import Pipeline
from ssd_jax.training import emoji

REFERENCE_SEED = 1_000_000
"""Seeds of the reference pictures start here."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Reference pictures to find identities among: those without skin tones.

    Attributes:
        images: uint8 [M, H, W, 3], a view of the file.
        picked: int64 [M'], rows of `images` that belong to the gallery.
        captions, identities: of the picked rows.
        known: which of them are of identities that the model was trained on, bool [M'].
    """

    images: np.ndarray
    picked: np.ndarray
    captions: list[str]
    identities: list[str]
    known: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> "Gallery":
        """From a data folder that `ssd_jax.training.emoji.build` wrote; raises `UserError` if it is none."""
        try:
            data = emoji.load(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"The reference pictures cannot be read: {error}.") from None
        picked = np.array([index for index, tone in enumerate(data.tones) if not tone])
        captions, identities = ([column[i] for i in picked] for column in (data.captions, data.identities))
        return cls(data.images, picked, captions, identities, data.splits[picked] != "identity")

    def prompts(self, count: int) -> list[str]:
        """Captions of known identities in a fixed random order; repeated if there are not enough."""
        order = np.random.default_rng(0).permutation(np.flatnonzero(self.known))
        return [self.captions[i] for i in np.resize(order, count)]

    def pictures(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures of rows of `picked`, uint8."""
        return np.stack([self.images[self.picked[row]] for row in rows])


def measure_quality(
    pipe: Pipeline,
    painters: dict[str, tuple[Pipeline, Decoder]],
    baseline: str,
    prompts: Sequence[str],
    batch: int,
    gallery: Gallery | None = None,
    distances: bool = True,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """One dict of numbers per painter, and notes in words.

    Args:
        pipe: the model whose law counts; its own guidance, temperature 1.
        painters: name -> model and decoder that draw; models may differ in their numerics.
        baseline: which of them the others are compared with.
        prompts: N texts, one for every picture of a painter.
        batch: pictures at once.
        gallery: reference pictures for retrieval, or None.
        distances: whether to compute features, which need the extra [eval].
    """
    bar = tqdm(total=len(prompts) * (len(painters) + distances), desc="quality", unit="picture", dynamic_ncols=True)
    with bar:
        drawn = {name: draw(*painter, prompts, 0, batch, bar) for name, painter in painters.items()}
        if distances:
            reference = draw(pipe, AR(), prompts, REFERENCE_SEED, batch, bar)[0]
    nll = {name: token_nll(pipe, prompts, tokens, batch=batch).mean(1) for name, (tokens, _) in drawn.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, (tokens, passes) in drawn.items():
        same_tokens, same_pictures = agreement(tokens, drawn[baseline][0])
        rows[name] = {
            "passes": float(passes.mean()),
            "equal tokens": same_tokens,
            "equal pictures": same_pictures,
            "lossless": is_lossless(painters[name][1]),
            "nll": Estimate.mean(nll[name]),
            "nll difference": Estimate.mean(nll[name] - nll[baseline]),
        }
    if not distances:
        return rows, []
    network = load_network()
    seen = {
        name: features(network, pipe.decode(tokens))
        for name, tokens in [*((name, tokens) for name, (tokens, _) in drawn.items()), ("", reference)]
    }
    to = seen.pop("")
    axes = principal_axes(to)
    for name, found in seen.items():
        rows[name] |= {"kid": kernel_distance(found, to), "fd": frechet_distance(found, to, axes)}
    notes = [f"KID and FD ({axes[1].shape[1]} principal axes) to {len(to)} `{baseline}` pictures of other seeds."]
    if gallery is not None:
        notes += _retrieve(pipe, network, prompts, seen, gallery, rows)
    return rows, notes


def draw(
    pipe: Pipeline, decoder: Decoder, prompts: Sequence[str], first_seed: int, batch: int, bar: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [N, R, C] and passes [N]; picture i has seed first_seed + i."""
    outs = []
    for start in range(0, len(prompts), batch):
        # A short last batch is filled up, so that it compiles nothing.
        rows = np.resize(np.arange(start, min(start + batch, len(prompts))), batch)
        seeds = [first_seed + int(row) for row in rows]
        outs.append(pipe.generate([prompts[row] for row in rows], decoder=decoder, seed=seeds))
        if bar is not None:
            bar.update(min(batch, len(prompts) - start))
    tokens, passes = (np.concatenate([getattr(out, name) for out in outs]) for name in ("tokens", "passes"))
    return tokens[: len(prompts)], passes[: len(prompts)]


def _retrieve(
    pipe: Pipeline, network: Any, prompts: Sequence[str], seen: dict[str, np.ndarray], gallery: Gallery, rows: dict
) -> list[str]:
    """Adds R@1 and R@5 of every decoder to `rows`; returns what there is to say about them."""
    row_of = {caption: row for row, caption in enumerate(gallery.captions)}
    asked = [index for index, text in enumerate(prompts) if text in row_of]
    if not asked:
        return ["No prompt is the caption of a reference picture, so there is no retrieval."]
    wanted = [gallery.identities[row_of[prompts[index]]] for index in asked]
    everything = tqdm(np.array_split(np.arange(len(gallery.picked)), -(-len(gallery.picked) // 256)), desc="gallery")
    shelf = np.concatenate([features(network, gallery.pictures(part)) for part in everything])

    def found(queries: np.ndarray) -> dict[int, Estimate]:
        return retrieval(queries, wanted, shelf, gallery.identities)

    for name, values in seen.items():
        shares = found(values[asked])
        rows[name] |= {"r@1": shares[1], "r@5": shares[5]}
    real = gallery.pictures([row_of[prompts[index]] for index in asked])
    if real.shape[1] % pipe.vq_config.stride:
        return [f"Retrieval: {len(asked)} pictures among {len(shelf)}."]
    rebuilt = [pipe.decode(pipe.encode(real[start : start + 32])) for start in range(0, len(real), 32)]
    best = found(features(network, np.concatenate(rebuilt)))
    return [
        f"Retrieval: {len(asked)} pictures among {len(shelf)}; the real pictures, through the VQ tokenizer and back, "
        f"reach R@1 {best[1].value:.3f} and R@5 {best[5].value:.3f}."
    ]
