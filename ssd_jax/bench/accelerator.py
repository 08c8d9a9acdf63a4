"""Measures models of the published sizes on this machine: python -m ssd_jax.bench --accelerator

One command for the accelerator section of docs/results.md: with random weights of Emu3, Lumina-mGPT and Janus-Pro-7B,
milliseconds per pass by window and share of memory bandwidth, seconds per image, both attention implementations, int8;
and how far the bundled model's exact decoders reproduce `ar`'s tokens. Results are written after every step, so that an
interrupted run keeps them.
"""

import dataclasses
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ssd_jax.bench.pass_pieces import Clock, Verify
from ssd_jax.bench.speed import agreement, measure_speed
from ssd_jax.decode.ar import AR
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import WIDE
from ssd_jax.errors import UserError
from ssd_jax.files import replacing
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.pipeline.loading import load
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.random_weights import load_random
from ssd_jax.plan.chips import chip_of
from ssd_jax.plan.job import job_for
from ssd_jax.plan.roofline import together
from ssd_jax.plan.speed import verify

MODELS = ("configs/emu3.py", "configs/lumina_mgpt.py", "configs/janus_pro.py")  # Emu3.5 is too large for one
DECODERS = ("ar", "ssd", "ssd-wave")
EXACT = ("ssd-exact", "jacobi-above")
PASSES = 64
"""Passes of `ar` that are timed; the rest of an image is extrapolated."""

PROMPTS = ["green heart, noto", "santa claus, noto", "woman, noto", "orange circle, twemoji"]


def run(read_config: Callable[[str], Any], specs: Sequence[str], passes: int | None, minutes: float, out: Path) -> str:
    """Runs the measurements within a time limit; returns the tables, which are also written to accelerator.md.

    Args:
        read_config: name of a config file -> its config.
        specs: names of config files.
        passes: time this many passes of every decoder; None: complete images of all but `ar`.
        minutes: time limit; steps that have not begun by then are skipped and listed.
        out: folder of accelerator.md and accelerator.json.
    """
    begun, skipped = time.monotonic(), []
    values: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "steps": {}}
    steps = [(name, step) for spec in specs for name, step in _steps(read_config(spec), spec, passes)]
    for attention in ATTENTIONS:
        steps.append((f"exact decoders, the bundled model, {attention} attention", partial(agreements, attention)))
    bar = tqdm(steps, desc="accelerator", unit="step", dynamic_ncols=True)
    for name, step in bar:
        bar.set_postfix_str(name)
        if time.monotonic() - begun > 60 * minutes:
            skipped.append(name)
            continue
        try:
            values["steps"][name] = step()
        except (UserError, RuntimeError) as error:  # out of memory, or attention not supported
            values["steps"][name] = {"failed": (str(error) or type(error).__name__).splitlines()[0]}
        _write(out, values, skipped)
    return _write(out, values, skipped)


def _steps(config: Any, spec: str, passes: int | None) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Name and function of every step of one model; steps share the loaded model."""
    models = find_models(config, spec)
    C = models.backbone.cols
    held: dict[str, Any] = {}

    def forget() -> dict:
        held.clear()
        gc.collect()
        return {}

    def pipe(attention: str, quantize: str | None) -> Pipeline:
        if "pipe" not in held or held["pipe"].quantize != (quantize or ""):
            forget()
            held["pipe"] = load_random(models, quantize=quantize)
        base = held["pipe"]
        execution = dataclasses.replace(base.execution, attention=attention)
        return Pipeline(base.origin, base.model, base.vq_config, execution)

    def windows(attention: str, quantize: str | None, widths: Sequence[int]) -> dict[str, Any]:
        model = pipe(attention, quantize)
        clock = Clock(model)
        job = dataclasses.replace(
            job_for(models, "", None, 1, None, quantize, attention), prompt=clock.prompt, dtype=jnp.dtype(model.dtype)
        )
        sizes = sorted({min(width, clock.grid.size) for width in widths})
        cudnn = jax.default_backend() == "gpu"
        moved = {width: together(verify(job, width, width)).all_moved(cudnn) for width in sizes}
        chip = chip_of(jax.devices()[0].device_kind)
        return {
            f"W = {width}": {"ms": 1e3 * seconds, "GB/s": moved[width] / seconds / 1e9}
            | ({} if chip is None else {"of bandwidth": moved[width] / seconds / chip.bandwidth})
            for width, seconds in ((width, clock.seconds(Verify(width, width))) for width in sizes)
        }

    def pictures(attention: str, quantize: str | None, names: Sequence[str]) -> dict[str, Any]:
        model, found = pipe(attention, quantize), {}
        for name in names:
            some = passes or (PASSES if name == "ar" else None)
            timed = measure_speed(model, {name: PRESETS[name]}, ["a picture"], 1, 1, some, counts=False)[name]
            found[name] = {
                "passes": int(timed.passes[0]),
                "s / image": float(np.median(timed.seconds)),
                "ms": 1e3 * timed.seconds_per_pass,
                "passes timed": timed.extrapolated or int(timed.passes[0]),
            }
        return found

    label = Path(spec).stem
    label += f":{spec.partition(':')[2]}" if ":" in spec else ""
    for attention, quantize, widths, names in (
        ("plain", None, (1, 16, 64, C, 2 * C), DECODERS),
        ("fused", None, (1, C, 2 * C), ("ssd",)),
        ("plain", "int8", (1, C, 2 * C), ("ar", "ssd")),
    ):
        how = f"{label}, {quantize or 'bfloat16'}, {attention} attention"
        yield f"{how}: passes", lambda a=attention, q=quantize, w=widths: windows(a, q, w)
        yield f"{how}: pictures", lambda a=attention, q=quantize, n=names: pictures(a, q, n)
    yield f"{label}: memory given back", forget


def agreements(attention: str) -> dict[str, Any]:
    """Shares of tokens and images equal to those of `ar`, and of `ar` with the decoder's window."""
    pipe, found = load("emoji", attention=attention), {}

    def draw(decoder: Any, batch: int | None = 1) -> np.ndarray:
        outs = [pipe.generate(PROMPTS, decoder=decoder, seed=s, max_batch=batch, pixels=False) for s in range(2)]
        return np.concatenate([out.tokens for out in outs])

    ar, wide = draw(AR()), draw(AR(window=WIDE))
    for name, tokens in {"ar, all at once": draw(AR(), None), f"AR(window={WIDE})": wide}.items():
        found[name] = dict(zip(("tokens as ar", "pictures as ar"), agreement(tokens, ar), strict=True))
    for name in EXACT:
        tokens = draw(PRESETS[name].on_accelerator())
        keys = ("tokens as ar", "pictures as ar", "tokens as in its window", "pictures as in its window")
        found[name] = dict(zip(keys, (*agreement(tokens, ar), *agreement(tokens, wide)), strict=True))
    return found


def _write(out: Path, values: Mapping[str, Any], skipped: Sequence[str]) -> str:
    lines = [f"{values['device']}, jax {values['jax']}; random weights but for the exact decoders", ""]
    for name, rows in values["steps"].items():
        if "failed" in rows:
            lines += [f"{name}: failed, {rows['failed']}", ""]
        elif rows:
            keys = list(dict.fromkeys(key for row in rows.values() for key in row))
            lines += [f"| {name} | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
            lines += [
                f"| {row} | " + " | ".join(_cell(cells.get(key)) for key in keys) + " |" for row, cells in rows.items()
            ]
            lines.append("")
    lines += [f"Left out, because the time was up: {', '.join(skipped)}."] if skipped else []
    text = "\n".join(lines)
    with replacing(out / "accelerator.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with replacing(out / "accelerator.json") as temporary:
        temporary.write_text(json.dumps({**values, "left out": list(skipped)}, indent=2) + "\n", encoding="utf-8")
    return text


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"
