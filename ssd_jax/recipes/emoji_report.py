"""Evaluates a finished training of the bundled model and writes the tables of docs/emoji-model.md."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssd_jax.data.captioned_codes import CaptionedCodes
from ssd_jax.data.emoji import SPLITS
from ssd_jax.files import replacing
from ssd_jax.models.config import ModelConfig, VQConfig
from ssd_jax.models.teacher_forcing import image_hidden
from ssd_jax.models.transformer import Transformer
from ssd_jax.models.vq import VQModel, to_float, to_uint8
from ssd_jax.training.backbone import mean_nll
from ssd_jax.training.head_training import Values, tables
from ssd_jax.training.losses import psnr, token_nll
from ssd_jax.training.metrics import read_log
from ssd_jax.training.spec import StageSpec


@dataclasses.dataclass(frozen=True)
class Measured:
    """A mean with the half width of its 95 % interval over `count` images."""

    mean: float
    half: float
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Measured":
        """From one value per image."""
        half = 1.96 * float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(float(np.mean(values)), half, len(values))


def nll_report(model: ModelConfig, params: Any, source: CaptionedCodes, limit: int, batch: int) -> dict[str, Measured]:
    """NLL in nats per token on every split, and on held-out images with the captions of others."""
    transformer = Transformer(model)

    @jax.jit
    def nll(params: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        hidden = image_hidden(transformer, params, ids, mask, codes)
        return token_nll(transformer.apply(params, hidden, method="logits"), codes)

    out = {}
    for split in SPLITS:
        if len(picked := source.split(split, limit)):
            out[split] = Measured.of(mean_nll(nll, params, source, picked, batch))
    picked = source.heldout(limit)
    others = np.random.default_rng(0).permutation(picked)
    shuffled = mean_nll(nll, params, source, picked, batch, captions_of=others)
    out["held out, captions shuffled"] = Measured.of(shuffled)
    return out


def vq_report(vq: VQConfig, params: Any, source: CaptionedCodes, limit: int, batch: int) -> dict[str, Measured]:
    """PSNR in dB of images after encoding and decoding to 8 bits, on every split."""

    @jax.jit
    def quality(params: Any, images: jax.Array) -> jax.Array:
        codes = VQModel(vq).apply(params, to_float(images), method="encode")
        rebuilt = to_uint8(VQModel(vq).apply(params, codes, method="decode"))
        return psnr(to_float(images), to_float(rebuilt))

    out = {}
    for split in SPLITS:
        picked = source.split(split, limit)
        if not len(picked):
            continue
        values = [
            np.asarray(quality(params, np.asarray(source.data.images[np.resize(picked[i : i + batch], batch)])))
            for i in range(0, len(picked), batch)
        ]
        out[split] = Measured.of(np.concatenate(values)[: len(picked)])
    return out


def training_minutes(workdir: Path, parts: Mapping[str, StageSpec]) -> dict[str, float]:
    """Minutes spent on the steps of every stage and phase of a training, from the logged rates.

    A line covers the steps since the last line or checkpoint. Steps between a line and a checkpoint are in none; they
    are assumed to be as fast as the others.
    """
    out = {}
    for stage, values in parts.items():
        covered, seconds = 0, 0.0
        for line in read_log(workdir / stage / "metrics.jsonl"):
            if "images_per_second" in line:
                before = line["step"] - 1
                steps = 1 + min(before % values.log_every, before % values.save_every)
                covered, seconds = covered + steps, seconds + steps * values.batch / line["images_per_second"]
        out[stage] = seconds / 60.0 * values.steps / max(covered, 1)
    return out


def write_report(
    path: Path,
    nll: dict,
    vq: dict,
    heads: Values,
    minutes: dict[str, float],
    shares: dict[str, dict[int, Any]],
    note: str,
) -> None:
    """Writes `<path>.json` and, as markdown tables, `<path>.md`; `shares` and `note` are those of
    `eval.recognition`."""
    lines = ["| split | NLL, nats per token | VQ round trip, dB | pictures |", "|---|---|---|---|"]
    for name, value in nll.items():
        quality = f"{vq[name].mean:.2f} ± {vq[name].half:.2f}" if name in vq else ""
        lines.append(f"| {name} | {value.mean:.3f} ± {value.half:.3f} | {quality} | {value.count} |")
    lines += tables(heads)
    if shares:
        lines += ["", "| captions | R@1 | R@5 |", "|---|---|---|"]
    for name, share in shares.items():
        cells = [f"{share[k].value:.2f} [{share[k].low:.2f}, {share[k].high:.2f}]" for k in (1, 5)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", note] if note else []
    lines += ["", "| stage | minutes |", "|---|---|"]
    lines += [f"| {stage} | {value:.1f} |" for stage, value in minutes.items()]
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = {
        "nll": {name: dataclasses.asdict(value) for name, value in nll.items()},
        "psnr": {name: dataclasses.asdict(value) for name, value in vq.items()},
        "heads": heads,
        "recognised": {name: {f"r@{k}": dataclasses.asdict(v) for k, v in by.items()} for name, by in shares.items()},
        "gallery": note,
        "minutes": minutes,
    }
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
