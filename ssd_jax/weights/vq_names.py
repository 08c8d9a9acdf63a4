"""Tensor names of the published image tokenizers, as they are on disk and in transformers, and ours.

Ours are the names of `mapping.flatten`: "encoder.down_0_block_1.conv2.kernel". Families are "chameleon" (also Lumina
and Anole; taming's names), "janus" and "emu3" (both repositories' names and those of the -hf conversions).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ssd_jax.weights.load import WeightsError
from ssd_jax.weights.mapping import flatten, unflatten

Shape = tuple[int, ...]
Rules = tuple[tuple[str, str], ...]

_PREFIXES = ("model.vqmodel.", "vqmodel.", "gen_vision_model.")
"""What stands before a tokenizer's names inside a whole model; nothing in a file of its own."""

_OWN = re.compile(r"(encoder|decoder|quantize|quant_conv|post_quant_conv|loss)\.")
"""How a tokenizer's names begin without such a prefix."""

_IGNORED = re.compile(
    r"loss\."  # the losses' own networks, in a training checkpoint
    r"|.*\.num_batches_tracked$"  # of batch norms, which only count while they are trained
    r"|quantize\.codebook_used$"  # a record of training
)

_EMU3: Rules = (
    (r"^(encoder|decoder)\.middle_block\.", r"\1.mid."),
    (r"\.(down|up)_block\.", "."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.attn_norm\.", ".attn_1.norm."),
    (r"\.([qkv])_proj\.", r".\1."),
    (r"\.out_proj\.", ".proj_out."),
    (r"\.norm_layer\.", ".norm."),
    (r"^(encoder|decoder)\.time_conv\.(\d+)\.", r"\1_time.conv_\2."),
    (r"^(encoder|decoder)\.time_res_stack\.(\d+)\.", r"\1_time.block_\2."),
)
_JANUS: Rules = (
    (r"^encoder\.conv_blocks\.", "encoder.down."),
    (r"^decoder\.conv_blocks\.", "decoder.up."),
    (r"\.res\.(\d+)\.", r".block.\1."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
)
_COMMON: Rules = (
    (r"\.(down|up)\.(\d+)\.(block|attn)\.(\d+)\.", r".\1_\2_\3_\4."),
    (r"\.(down|up)\.(\d+)\.(downsample|upsample)\.", r".\1_\2_\3."),
    (r"(\.conv)+\.(weight|bias)$", r".\2"),  # a convolution inside a module that only pads, enlarges or shifts time
    (r"^quantize\.embedding\.weight$", "codebook"),
    (r"(\.norm\w*)\.weight$", r"\1.scale"),
    (r"\.running_(mean|var)$", r".\1"),
    (r"\.weight$", ".kernel"),
)
_RULES = {"chameleon": _COMMON, "janus": _JANUS + _COMMON, "emu3": _EMU3 + _COMMON}


class Placement(NamedTuple):
    """Where a published tensor goes.

    Attributes:
        path: our parameter's flat name.
        transform: the published array to ours, as a view.
    """

    path: str
    transform: Callable[[np.ndarray], np.ndarray]


def is_vq_name(name: str) -> bool:
    """Whether a tensor of a whole published model belongs to its image tokenizer."""
    return _local(name) != name or _OWN.match(name) is not None


def place(family: str, name: str, shape: Shape, leaves: Mapping[str, Any]) -> Placement | None:
    """Where one published tensor goes; None if it is left out on purpose.

    Args:
        family: "chameleon", "janus" or "emu3".
        name, shape: of the tensor as published.
        leaves: our parameters by flat name, with shapes.
    Raises:
        WeightsError: no parameter has such a tensor, or it has another shape.
    """
    local = _local(name)
    if _IGNORED.match(local):
        return None
    path = local
    for pattern, replacement in _RULES[family]:
        path = re.sub(pattern, replacement, path)
    if family == "janus":  # counts the decoder's levels from the lowest resolution
        last = max(int(match[1]) for match in map(re.compile(r"decoder\.up_(\d+)_block_0").match, leaves) if match)
        path = re.sub(r"^decoder\.up_(\d+)_", lambda match: f"decoder.up_{last - int(match[1])}_", path)
    if path not in leaves:
        raise WeightsError(f"tensor {name!r} is unexpected.")
    wanted = tuple(leaves[path].shape)
    transform = _TRANSFORMS.get((len(shape), len(wanted)) if path.endswith(".kernel") else None, _same)
    try:
        # An array without memory: what is wanted is the shape that comes out.
        fits = transform(np.broadcast_to(np.int8(0), shape)).shape == wanted
    except ValueError:
        fits = False
    if not fits:
        raise WeightsError(f"tensor {name!r} has shape {tuple(shape)}, which does not fit {path!r} {wanted}.")
    return Placement(path, transform)


def plan(family: str, shapes: Mapping[str, Shape], like: Mapping[str, Any]) -> dict[str, Placement]:
    """Where all tensors of a published tokenizer go; those left out on purpose are not in the result.

    Args:
        family: "chameleon", "janus" or "emu3".
        shapes: the tensors' names and shapes, from headers; of a whole model only those with `is_vq_name`.
        like: nested dict of `jax.ShapeDtypeStruct`, with or without the leading "params".
    Raises:
        WeightsError: a tensor is unexpected or of another shape; a parameter has no tensor, or two.
    """
    leaves, placements, filled = flatten(like), {}, {}
    for name, shape in shapes.items():
        placement = place(family, name, shape, leaves)
        if placement is None:
            continue
        if placement.path in filled:
            raise WeightsError(f"tensors {filled[placement.path]!r} and {name!r} are the same parameter.")
        filled[placement.path], placements[name] = name, placement
    missing = sorted(set(leaves) - set(filled))
    if missing and not any(path.startswith("decoder.") for path in filled):
        raise WeightsError("there is only the tokenizer's encoder; pictures need a file that holds its decoder, too.")
    if missing:
        others = f" (and for {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise WeightsError(f"there is no tensor for the parameter {missing[0]!r}{others}.")
    return placements


def read_vq(
    family: str,
    shapes: Mapping[str, Shape],
    read: Callable[[str], np.ndarray],
    like: Mapping[str, Any],
    dtype: DTypeLike = jnp.float32,
) -> dict[str, Any]:
    """Reads a published tokenizer, one tensor at a time.

    Args:
        family, shapes, like: as for `plan`. A leaf's sharding, if any, says where the array goes.
        read: a tensor's name to the tensor, as published.
        dtype: what the parameters are cast to.
    Returns:
        {"params": nested dict of arrays}.
    """
    leaves = flatten(like)
    flat = {}
    for name, (path, transform) in plan(family, shapes, like).items():
        array = np.ascontiguousarray(transform(read(name)).astype(dtype, copy=False))
        flat[path] = jax.device_put(array, leaves[path].sharding)
    return unflatten(flat)


def _local(name: str) -> str:
    """A name without what stands before it in a whole model."""
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _last_tap(x: np.ndarray) -> np.ndarray:
    """The part of a convolution over three frames that sees the only one there is (see models/movq.py)."""
    if x.shape[2] != 3:
        raise ValueError("frames are padded with two in front")
    return x[:, :, 2]


_TRANSFORMS = {
    (2, 2): lambda x: x.T,
    (4, 2): lambda x: x.squeeze((2, 3)).T,
    (4, 4): lambda x: x.transpose(2, 3, 1, 0),
    (5, 2): lambda x: _last_tap(x).squeeze((2, 3)).T,
    (5, 4): lambda x: _last_tap(x).transpose(2, 3, 1, 0),
    (5, 5): lambda x: x.transpose(2, 3, 4, 1, 0),
}
"""(dimensions of a published kernel, of ours) -> one to the other: output channels come first there and last here."""
