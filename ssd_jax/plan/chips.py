"""Datasheet rates of accelerators.

| chip      | source                                                                                   |
|-----------|------------------------------------------------------------------------------------------|
| A100-80   | NVIDIA A100 datasheet, SXM4 80 GB; NVLink 600 GB/s, both directions together             |
| H100, H200| NVIDIA H100 and H200 datasheets, SXM, bfloat16 without sparsity; NVLink 900 GB/s         |
| v5e, v6e  | docs.cloud.google.com/tpu/docs/v6e; interconnect 1600 and 3584 Gbit/s over four ports    |
| v5p       | docs.cloud.google.com/tpu/docs/v5p; interconnect 1200 GB/s, both directions, over six    |

Real programs stay below these rates.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        name: common name.
        memory: bytes; infinite if unknown.
        bandwidth: memory bandwidth, bytes per second.
        flops: bfloat16 operations per second, a multiplication and an addition being two; if measured without overlap,
            those of a product's further rows (see `plan.this_machine`).
        link: bytes per second that it can send in a ring: NVLink, one direction; on a TPU two of its ports.
        cudnn: whether fused attention with a 16-bit cache uses cuDNN: on NVIDIA GPUs.
        attention: bytes per second that attention moves, if measured; None: the memory bandwidth.
        overlaps: whether memory reads and arithmetic overlap; not on a CPU (see `plan.roofline`).
        wide: operations per second of an entire wide product, if measured; reported beside `flops`.
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    link: float
    cudnn: bool = False
    attention: float | None = None
    overlaps: bool = True
    wide: float | None = None


CHIPS = (
    Chip("H100", 80e9, 3.35e12, 989e12, 450e9, cudnn=True),
    Chip("H200", 141e9, 4.8e12, 989e12, 450e9, cudnn=True),
    Chip("A100-80", 80e9, 2.039e12, 312e12, 300e9, cudnn=True),
    Chip("v5e", 16e9, 0.819e12, 197e12, 100e9),
    Chip("v5p", 95e9, 2.765e12, 459e12, 200e9),
    Chip("v6e", 32e9, 1.64e12, 918e12, 224e9),
)

KINDS = {
    r"NVIDIA H100 80GB HBM3": "H100",
    r"NVIDIA H200": "H200",
    r"NVIDIA A100-SXM4-80GB": "A100-80",
    r"TPU v5 lite|TPU v5e": "v5e",
    r"TPU v5|TPU v5p": "v5p",
    r"TPU v6 lite|TPU v6e": "v6e",
}
"""jax's full names of these chips; others of their families have other rates."""


def chip_of(kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if it is not in `CHIPS`."""
    names = {name for pattern, name in KINDS.items() if re.fullmatch(pattern, kind)}
    return next((chip for chip in CHIPS if chip.name in names), None)
