"""Maps tensor names of the published image tokenizers, original and transformers', to ours.

Ours are the names of `mapping.flatten`: "encoder.down_0_block_1.conv2.kernel". Theirs are those of the original VQGAN
code (CompVis/taming-transformers), or are mapped to them by the rules in the backbone's file.
"""

import re
from collections.abc import Mapping
from typing import Any

from ssd_jax.backbones import PUBLISHED
from ssd_jax.weights.mapping import Source, flatten
from ssd_jax.weights.store import WeightsError, others

PREFIXES = tuple(dict.fromkeys(prefix for published in PUBLISHED.values() for prefix in published.vq.prefixes))
"""Prefixes of a tokenizer's names in a checkpoint of the full model; none in a file of its own."""

_OWN = re.compile(r"(encoder|decoder|quantize|quant_conv|post_quant_conv|loss)\.")
"""First parts of a tokenizer's names without such a prefix."""

_LEFT_OUT = re.compile(
    r"loss\..*"  # the loss networks of a training checkpoint
    r"|.*\.num_batches_tracked"  # counters of batch norms, used in training only
    r"|quantize\.codebook_used"  # statistics of training
)

_COMMON = (
    (r"\.(down|up)\.(\d+)\.(block|attn)\.(\d+)\.", r".\1_\2_\3_\4."),
    (r"\.(down|up)\.(\d+)\.(downsample|upsample)\.", r".\1_\2_\3."),
    (r"(\.conv)+\.(weight|bias)$", r".\2"),  # a convolution inside a module that only pads, upsamples or shifts time
    (r"^quantize\.embedding\.weight$", "codebook"),
    (r"(\.norm\w*)\.weight$", r"\1.scale"),
    (r"\.running_(mean|var)$", r".\1"),
    (r"\.weight$", ".kernel"),
)
"""(pattern, replacement) pairs, in order, from the original code's names to ours."""

ELSEWHERE = "say with vq_weights (sample.py: --vq_weights) in which file or folder all of it is"
"""What to do about a file without a complete image tokenizer."""

_KERNELS = {
    (2, 2): "o i -> i o",
    (4, 2): "o i 1 1 -> i o",
    (4, 4): "o i h w -> h w i o",
    (5, 2): "o i 3 1 1 -> i o",
    (5, 4): "o i 3 h w -> h w i o",
    (5, 5): "o i t h w -> t h w i o",
}
"""(axes of a published kernel, of ours) -> layout. Of three taps over time the last is taken, which sees the only
frame; models/movq.py explains why that is exact."""


def is_vq_name(name: str) -> bool:
    """Whether a tensor of a full published model belongs to its image tokenizer."""
    return local_name(name) != name or _OWN.match(name) is not None


def find_vq_sources(family: str, like: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    """Finds the stored tensor of every parameter of a published image tokenizer.

    Args:
        family: `ModelConfig.architecture` of a published model.
        like: the parameters' shapes, nested.
        shapes: shapes of all tensors in the file, by name; others than the tokenizer's are ignored.
    Returns:
        flat parameter name -> source.
    Raises:
        WeightsError: a tensor of the tokenizer is unexpected; a parameter has none, or two.
    """
    leaves, sources = flatten(like), {}
    for name, shape in shapes.items():
        if not is_vq_name(name) or _LEFT_OUT.fullmatch(local_name(name)):
            continue
        path = _parameter(family, local_name(name), leaves)
        if path not in leaves:
            raise WeightsError(f"tensor {name!r} is unexpected.")
        if path in sources:
            raise WeightsError(f"tensors {sources[path].name!r} and {name!r} are the same parameter.")
        layout = _KERNELS.get((len(shape), len(leaves[path].shape)), "") if path.endswith(".kernel") else ""
        sources[path] = Source(name, layout)
    missing = leaves.keys() - sources.keys()
    if not sources:
        raise WeightsError(f"there is no image tokenizer; {ELSEWHERE}.")
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if not any(path.startswith(f"{other}.") for path in sources):
            raise WeightsError(f"of the image tokenizer there is only the {half}, without {other}; {ELSEWHERE}.")
    if missing:
        raise WeightsError(f"no tensor is the image tokenizer's {min(missing)!r}{others(missing)}.")
    return sources


def local_name(name: str) -> str:
    """A name without its prefix in a full model."""
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _parameter(family: str, local: str, leaves: Mapping[str, Any]) -> str:
    """Our flat name of a published tensor."""
    vq = PUBLISHED[family].vq
    for pattern, replacement in vq.rules + _COMMON:
        local = re.sub(pattern, replacement, local)
    if vq.lowest_first:
        last = max(int(match[1]) for match in map(re.compile(r"decoder\.up_(\d+)_block_0").match, leaves) if match)
        local = re.sub(r"^decoder\.up_(\d+)_", lambda match: f"decoder.up_{last - int(match[1])}_", local)
    return local
