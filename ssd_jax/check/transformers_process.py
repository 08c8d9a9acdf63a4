"""What transformers makes of a checkpoint folder: a JSON job on stdin, arrays in a safetensors file, a JSON object on
the last line of stdout (python -m ssd_jax.check.transformers_process < job.json). `ssd_jax.check.reference` starts it.

It runs on the CPU, with attention as plain products.
"""

import json
import os
import sys
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ssd_jax.bench.transformers_process import Drawing
from ssd_jax.check.transformers_families import FAMILIES


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    print(json.dumps(answer(json.load(sys.stdin))), flush=True)


@torch.inference_mode()
def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the model, then the image tokenizer, and writes what they gave.

    Args:
        job: "folder"; "model": the fields of `ModelConfig`, with the layers that take part and the grid of R x C codes
            that are drawn; "dtype" of the weights; "prompt": its ids, S; "codes": R*C that are given; "image": [height,
            width, 3] numbers from 0 to 255; "tokenizer": name -> [file, name in it], or nothing to leave it out; "out".

    Returns:
        "ids": special ids by field of `ModelConfig`, as far as the class knows any; "missing": the names of tensors
        that it found nowhere; "versions". The file has "logits" float32 [R*C, V] that predict the given codes;
        "greedy" int64 [R*C], the codes that it draws itself, and their "greedy_logits"; of the image tokenizer
        "latents" float32 [R, C, code_dim] and "encoded" int64 [R, C] of the image, and "pixels" float32 [height, width,
        3] of these codes. Without a decoder there are no pixels.
    """
    family, arrays = FAMILIES[job["model"]["architecture"]], {}
    model, missing = read(family.model, job)
    ids, section = family.ids(model), getattr(model.config, "vq_config", None)
    if not missing:
        drawing = Drawing(model, dict(model=job["model"], cfg_scale=1.0, top_k=0, prompt=1))
        drawing.prompt = torch.tensor([job["prompt"]])
        with tqdm(total=2 * len(job["codes"]), desc="transformers", unit="pass") as bar:
            arrays["logits"], _ = follow(drawing, bar, job["codes"])
            arrays["greedy_logits"], arrays["greedy"] = follow(drawing, bar)
        del drawing
    del model
    if job["tokenizer"]:
        arrays |= pictures(family.tokenizer(section, stored(job["tokenizer"])), job["image"])
    save_file({name: array.contiguous() for name, array in arrays.items()}, job["out"])
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"ids": ids, "missing": missing, "versions": versions}


def read(kind: type[transformers.PreTrainedModel], job: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model with the first layers of the folder's, and the names of tensors that the folder lacks. Those of the
    image tokenizer are not among them: it is read by itself, in float32."""
    config = kind.config_class.from_pretrained(job["folder"])
    config.get_text_config(decoder=True).num_hidden_layers = job["model"]["layers"]
    if getattr(config, "vocabulary_map", {}) is None:
        config.vocabulary_map = {"<image>": 0}  # the classes with such a map do not run without one
    options = dict(dtype=getattr(torch, job["dtype"]), attn_implementation="eager", use_safetensors=True)
    model, found = kind.from_pretrained(
        job["folder"], config=config, local_files_only=True, output_loading_info=True, **options
    )
    missing = [*found["missing_keys"], *(name for name, *_ in found.get("mismatched_keys", ()))]
    return model.eval(), sorted(name for name in missing if "vqmodel." not in name)


def follow(drawing: Drawing, bar: tqdm, given: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits that predict each code of a picture, float32 [R*C, V], and the codes, int64 [R*C]: those given, or the
    most likely ones."""
    cache, sizes = drawing.empty_cache("dynamic"), drawing.sizes
    offset = 0 if drawing.janus else sizes["visual_offset"]
    logits, codes = [drawing.logits(drawing.prompt, cache)], []
    for place in range(sizes["rows"] * sizes["cols"]):
        bar.update()
        codes.append(int(logits[-1].argmax()) if given is None else given[place])
        end = drawing.row_ends and (place + 1) % sizes["cols"] == 0
        if place + 1 < sizes["rows"] * sizes["cols"]:  # else nothing is left to predict
            ids = torch.tensor([[codes[-1] + offset, *([sizes["row_end_id"]] if end else [])]])
            logits.append(drawing.logits(ids, cache, codes=True))
    return torch.cat(logits).float(), torch.tensor(codes)


def stored(places: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """name -> [file, name in it] to name -> float32 tensor."""
    tensors: dict[str, torch.Tensor] = {}
    for path in {path for path, _ in places.values()}:
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(inner).float() for name, (of, inner) in places.items() if of == path}
    return tensors


def pictures(tokenizer: Any, image: list) -> dict[str, torch.Tensor]:
    """Latents, codes and pixels of one image."""
    x = (torch.tensor(image, dtype=torch.float32) / 127.5 - 1.0).permute(2, 0, 1)[None]
    codes = tokenizer.encode(x)
    out = {"latents": tokenizer.latents(x)[0].permute(1, 2, 0), "encoded": codes[0]}
    if tokenizer.decode is not None:
        out["pixels"] = tokenizer.decode(codes)[0].permute(1, 2, 0).float()
    return out


if __name__ == "__main__":
    main()
