"""Times Hugging Face transformers as a baseline on this machine: same family, same sizes, random weights.

Nothing is downloaded. The model runs in a process of its own (`transformers_process`), whose memory is freed when this
returns; memory that this process holds meanwhile, on an accelerator or not, is not available to it.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from typing import IO, Any

from ssd_jax.errors import UserError, require_whole
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.matmul import cpu_multiplies_bfloat16

MODULE = "ssd_jax.bench.transformers_process"
PACKAGES = ("torch", "transformers")
MISSING = re.compile("ImportError|ModuleNotFoundError|AttributeError: module transformers")
TAIL = 4096
INSTALL = 'pip install "ssd_jax[baseline]"'


def measure_baseline(
    config: ModelConfig,
    prompt: int,
    cfg_scale: float,
    top_k: int,
    repeats: int,
    passes: int | None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Times transformers on images of `config.rows` x `config.cols` codes at batch 1, on its own GPU or all cores.

    Args:
        config: the backbone's config.
        prompt: number of prompt tokens.
        cfg_scale: guidance scale; 1 is no guidance, one batch row instead of two.
        top_k: top-k of the sampler; 0 keeps all codes.
        repeats: timed runs, after one warm-up.
        passes: time this many passes in the middle of an image instead of complete images, and extrapolate.
        dtype: "bfloat16" or "float32"; None is bfloat16 where there are instructions for it, otherwise float32.

    Returns:
        "passes": tokens of an image, one pass each: R*C codes, and R row ends if the family has them (the closing
        tokens of Emu3 and Lumina-mGPT are not counted); "seconds": per image, median; "seconds range": least and most;
        "seconds per pass": median; "extrapolated": whether from `passes`; "loop": what was timed, one sentence;
        "setting": the fastest attention and cache, dtype of the weights, device; "versions".

    Raises:
        UserError: transformers lacks the family or is not installed, or its process failed.
    """
    if config.architecture == "emoji":
        raise UserError("transformers has no model of the family emoji (the bundled one), so there is no baseline.")
    for name, value, least in (("prompt", prompt, 1), ("top_k", top_k, 0), ("repeats", repeats, 1)):
        require_whole(name, value, least)
    if passes is not None:
        require_whole("passes", passes, 1)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"The baseline needs {package}, which is not installed; {INSTALL} brings it.")
    cpu = "bfloat16" if cpu_multiplies_bfloat16() else "float32"
    sizes = dict(
        dtype=dtype, cpu_dtype=cpu, prompt=prompt, cfg_scale=cfg_scale, top_k=top_k, repeats=repeats, passes=passes
    )
    out = _run(json.dumps(dict(model=dataclasses.asdict(config), **sizes)))
    return out | {"seconds range": tuple(out["seconds range"])}


def _run(job: str) -> dict[str, Any]:
    """The last line of the process's output, parsed. Its stderr, with the progress, is copied to ours."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    tail = bytearray()
    with subprocess.Popen([sys.executable, "-m", MODULE], env=os.environ | {"HF_HUB_OFFLINE": "1"}, **pipes) as process:
        reader = threading.Thread(target=_forward, args=(process.stderr, tail))
        reader.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it may have exited already
                pipe.write(job.encode())
            out = process.stdout.read().decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
        finally:
            reader.join()
    code, lines = process.returncode, re.split("[\r\n]+", tail.decode(errors="replace").strip())
    if code == 0:
        return json.loads(out.splitlines()[-1])
    if MISSING.match(lines[-1]):
        raise UserError(f"The baseline needs other versions of torch and transformers ({lines[-1]}); try {INSTALL}.")
    why = ", probably because memory ran out" if code == -9 else ""  # killed by the kernel
    raise UserError(f"The baseline's process ended with exit code {code}{why}; its last line was: {lines[-1]}")


def _forward(source: IO[bytes], tail: bytearray) -> None:
    """Copies a stream to stderr as it arrives; `tail` keeps its end."""
    while part := source.read1():
        sys.stderr.write(part.decode(errors="replace"))
        sys.stderr.flush()
        tail += part
        del tail[:-TAIL]
