"""Writes checkpoint folders, each file atomically: under another name, then renamed."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from ssd_jax.files import replacing
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig
from ssd_jax.weights.load import CONFIG_NAME, FORMAT, fingerprint
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.part_file import BRANCH_FILE, HEADS_FILE

CARD_NAME = "README.md"

HEADS_CARD = """\
# Draft heads for spatially speculative decoding

`heads.safetensors` holds {horizontal} heads to the right and {vertical} down (context: {context}). They draft visual
codes for the decoders of `ssd_jax` that need heads, such as `ssd`. They belong to one backbone file, whose fingerprint
is

    {fingerprint}

With any other they are refused, even with the same weights in another dtype. With this folder as DIR, and as BACKBONE
the backbone's, which may be the same:

    python sample.py --weights=BACKBONE --heads=DIR --decoder=ssd --prompt=TEXT
"""


def write_tensors(
    path: Path, params: Mapping[str, Any], dtype: DTypeLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes parameters as one safetensors file; creates the folder if absent.

    Args:
        path: the file, replaced if it exists.
        params: nested dict of unboxed arrays, with or without the leading "params".
        dtype: dtype in which floating-point tensors are stored; integers keep theirs.
        metadata: text for the file's header; one entry at most, because safetensors writes several in an order that
            differs between processes, and equal weights should give equal bytes.
    """
    if metadata is not None and len(metadata) > 1:
        raise ValueError(f"one metadata entry at most, not {sorted(metadata)}")
    tensors = {}
    for name, leaf in flatten(params).items():
        stored = dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        # safetensors copies raw memory, so any other order than C would be stored scrambled.
        tensors[name] = np.asarray(leaf, dtype=stored, order="C")
    with replacing(Path(path)) as temporary:
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata=None if metadata is None else dict(metadata))
        temporary.chmod(mode)  # safetensors makes its files unreadable to others


def write_config(folder: Path, model: ModelConfig, vq: VQConfig) -> None:
    """Writes `config.json` of a checkpoint folder; equal configs give equal bytes."""
    sections = {"format": FORMAT, "model": dataclasses.asdict(model), "vq": dataclasses.asdict(vq)}
    with replacing(Path(folder) / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")


def write_heads_card(heads_path: Path, config: HeadsConfig, backbone_path: Path) -> None:
    """Writes README.md beside a heads file: its contents, the fingerprint of the backbone file it was trained on, and
    its use. Equal configs and backbones give equal bytes."""
    text = HEADS_CARD.format(**dataclasses.asdict(config), fingerprint=fingerprint(backbone_path))
    with replacing(Path(heads_path).with_name(CARD_NAME)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def remove_misfits(backbone_path: Path) -> None:
    """Removes draft heads, their README.md and branches beside a backbone file that were trained on another one."""
    made, folder = fingerprint(backbone_path), backbone_path.parent
    for kind in (HEADS_FILE, BRANCH_FILE):
        for path in kind.files(folder):
            if kind.describe(path)[1] != made:
                path.unlink()
                if path.name == HEADS_FILE.name:
                    (folder / CARD_NAME).unlink(missing_ok=True)
