"""Times transformers on one image of a family, with random weights.

Reads a JSON job from stdin, and prints a JSON object as the last line of stdout (python -m
ssd_jax.bench.transformers_process < job.json). `ssd_jax.bench.baseline` starts it.

Modules that image generation does not use (vision tower, VQ model) are as small as their classes allow; the vocabulary
is complete. Both attention implementations are tried with both caches, and the fastest pair is timed. torch.compile is
not tried: on a CPU it needs a C++ compiler, took 12 to 22 s for 6 layers, and was no faster; on a GPU it may be.
"""

import inspect
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tqdm import tqdm

from ssd_jax.bench.transformers_models import build

SETTINGS = tuple((attention, cache) for attention in ("sdpa", "eager") for cache in ("dynamic", "static"))
"""Attention implementations and key-value caches that all three classes support everywhere."""

TRIAL = 3
"""Passes with which each setting is tried, twice; the better time counts."""


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    print(json.dumps(measure(json.load(sys.stdin))), flush=True)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Builds the model of a job, finds its fastest setting and times it.

    Args:
        job: "model": the fields of `ModelConfig`; "dtype": "bfloat16", "float32", or null for the fastest, which on a
            CPU is "cpu_dtype"; "prompt": its tokens; "cfg_scale", where 1 is no guidance; "top_k",
            where 0 keeps all; "repeats": timed runs; "passes": null to time complete images, or that many passes in
            the middle of one, where the cache has its mean length.

    Returns:
        What `ssd_jax.bench.baseline.measure_baseline` describes.

    Raises:
        ArithmeticError: the random weights gave logits that are not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = job["cpu_dtype"]
    if device.type == "cuda":
        fast = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    dtype = getattr(torch, job["dtype"] or fast)
    torch.manual_seed(0)
    drawing = Drawing(build(job["model"], device, dtype), job)
    whole, repeats = drawing.tokens, job["repeats"]
    passes = job["passes"] and min(job["passes"], whole - 1)
    tried = min(TRIAL, whole - 1)
    total = 1 + len(SETTINGS * 2) * (tried + 1) + (repeats + 1) * (passes + 2 if passes else whole)
    with torch.inference_mode(), tqdm(total=total, desc="transformers", unit="pass") as bar:
        drawing.trunk.register_forward_hook(lambda *_: bar.update() and None)  # a result would replace the output
        if not drawing.logits(drawing.prompt, drawing.empty_cache("dynamic")).isfinite().all():
            raise ArithmeticError("The random weights gave logits that are not finite.")
        found = [(drawing.middle(setting, tried), setting) for setting in SETTINGS * 2]
        best = min(found)[1]
        if passes:
            firsts = [drawing.timed(best, drawing.prefill) for _ in range(repeats + 1)][1:]  # [0] is a warm-up
            steps = [drawing.middle(best, passes) for _ in range(repeats + 1)][1:]
            runs = [first + (whole - 1) * step for first, step in zip(firsts, steps, strict=True)]
        else:
            runs = [drawing.timed(best, drawing.picture) for _ in range(repeats + 1)][1:]
            steps = [seconds / whole for seconds in runs]
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU with {torch.get_num_threads()} threads"
    return {
        "passes": whole,
        "seconds": statistics.median(runs),
        "seconds range": (min(runs), max(runs)),
        "seconds per pass": statistics.median(steps),
        "extrapolated": bool(passes),
        "loop": drawing.describe(passes),
        "setting": f"{best[0]} attention, {best[1]} cache, no torch.compile, {str(dtype)[6:]}, {where}",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


class Drawing:
    """The passes of one image. Token 0 comes from the prefill, token t from a pass with token t - 1.

    The CFG batch has prompts of one length, so no pass needs a mask for padding.

    Attributes:
        tokens: T, of a complete image: R*C codes and, if the family has them, R row ends.
        prompt: random ids, int64 [B, S]; B is 2 with guidance and 1 without.
        generates: whether transformers itself generates images with a CFG batch; without guidance Janus fails.
    """

    def __init__(self, model: transformers.PreTrainedModel, job: dict[str, Any]):
        self.model, self.sizes, self.scale, self.top_k = model, job["model"], job["cfg_scale"], job["top_k"]
        self.trunk, self.janus = model.get_decoder(), self.sizes["architecture"] == "janus"
        self.row_ends = self.sizes["row_end_id"] != -1  # -2: there are some, but the id is not known
        self.tokens = self.sizes["rows"] * (self.sizes["cols"] + self.row_ends)
        self.batch = 1 if self.scale == 1 else 2
        self.prompt = torch.randint(self.sizes["vocab_size"], (self.batch, job["prompt"]), device=model.device)
        self.generates = self.janus and self.batch == 2
        # transformers 5.24 renamed the argument.
        self.cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def empty_cache(self, kind: str) -> transformers.Cache:
        config, most = self.model.config.get_text_config(decoder=True), self.prompt.shape[1] + self.tokens
        static = kind == "static"
        return transformers.StaticCache(config, most) if static else transformers.DynamicCache(config=config)

    def logits(self, ids: torch.Tensor, cache: transformers.Cache, codes: bool = False) -> torch.Tensor:
        """One pass over ids (for Janus also codes), int64 [B, n]: the logits of the next code, [B, V]."""
        options = {self.cache_name: cache, "use_cache": True}
        if not self.janus:
            first, size = self.sizes["visual_offset"], self.sizes["visual_size"]
            return self.model(input_ids=ids, logits_to_keep=1, **options).logits[:, -1, first : first + size]
        embed = self.model.prepare_embeddings_for_image_generation if codes else self.model.get_input_embeddings()
        hidden = self.trunk(inputs_embeds=embed(ids), **options).last_hidden_state
        return self.model.model.generation_head(hidden[:, -1])

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Guidance, top-k and a random code: [B, V] -> int64 [1, 1]."""
        logits = logits.float()
        logits = logits[-1:] + self.scale * (logits[:1] - logits[-1:])  # of one batch row: itself
        if not 0 < self.top_k < logits.shape[-1]:
            return torch.multinomial(logits.softmax(-1), 1)
        logits, places = logits.topk(self.top_k)
        return places.gather(1, torch.multinomial(logits.softmax(-1), 1))

    def loop(self, code: torch.Tensor, cache: transformers.Cache, first: int, count: int) -> torch.Tensor:
        """Runs `count` passes for the tokens from `first` on; returns their last code, int64 [1, 1]."""
        offset, row = (0 if self.janus else self.sizes["visual_offset"]), self.sizes["cols"] + 1
        end = torch.full_like(code, max(self.sizes["row_end_id"], 0))
        for index in range(first, first + count):
            token = end if self.row_ends and index % row == 0 else code + offset
            logits = self.logits(token.expand(self.batch, 1), cache, codes=True)
            if not (self.row_ends and (index + 1) % row == 0):  # else a forced row end follows
                code = self.draw(logits)
        return code

    def prefill(self, cache: transformers.Cache) -> torch.Tensor:
        """The pass over the prompt; returns the first code, int64 [1, 1]."""
        return self.draw(self.logits(self.prompt, cache))

    def picture(self, cache: transformers.Cache) -> torch.Tensor:
        """All passes of an image, by the class itself where it can."""
        if not self.generates:
            return self.loop(self.prefill(cache), cache, 1, self.tokens - 1)
        ids, rules = self.prompt[:1], dict(generation_mode="image", guidance_scale=self.scale, do_sample=True)
        rules |= {"attention_mask": torch.ones_like(ids), "top_k": self.top_k, self.cache_name: cache}
        return self.model.generate(ids, **rules)  # adds the second batch row itself

    def middle(self, setting: tuple[str, str], count: int) -> float:
        """Seconds per pass of `count` in the middle of an image, after random keys and values and an untimed pass."""
        first = 1 + (self.tokens - 1 - count) // 2
        shape = self.batch, self.sizes["kv_heads"], self.prompt.shape[1] + first - 2, self.sizes["head_dim"]
        cache, random = self.empty_cache(setting[1]), torch.randn(shape, device=self.model.device).to(self.model.dtype)
        for layer in range(self.sizes["layers"]):
            cache.update(random, random, layer)  # copies them
        self.model.set_attn_implementation(setting[0])
        code = self.loop(torch.zeros_like(self.prompt[:1, :1]), cache, first - 1, 1)
        return self.timed(setting, lambda cache: self.loop(code, cache, first, count), cache) / count

    def describe(self, passes: int | None) -> str:
        """One sentence on what was timed. `passes`: number in the middle, or None for complete images."""
        name, rows, cols = type(self.model).__name__, self.sizes["rows"], self.sizes["cols"]
        head = "the generation head" if self.janus else f"a head of all {self.sizes['vocab_size']} ids"
        loop = f"A plain loop around {name}'s forward with its cache, {head}, top-k and multinomial"
        if self.generates and not passes:
            loop = f"{name}.generate in its image mode"
        loop += ", both guidance rows in one batch" if self.batch == 2 else ", without guidance"
        loop += f"; {rows} x {cols} codes" + f" and {rows} forced row ends" * self.row_ends + ", a pass each"
        if passes:
            loop += f", from the prefill and {passes} passes in the middle, behind random keys and values"
        return loop + "; no VQ decoder."

    def timed(self, setting: tuple[str, str], run: Callable, cache: transformers.Cache | None = None) -> float:
        """Seconds of `run(cache)`; an empty cache by default."""
        self.model.set_attn_implementation(setting[0])
        cache = self.empty_cache(setting[1]) if cache is None else cache
        wait = torch.cuda.synchronize if self.model.device.type == "cuda" else int
        wait()
        start = time.perf_counter()
        run(cache)
        wait()
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
