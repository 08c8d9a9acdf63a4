"""Computes the least time that a chip needs for a device's work.

An accelerator takes the longer of the times for memory traffic and for arithmetic (the roofline model,
doi.org/10.1145/1498765.1498785). A CPU takes their sum: the same instructions load and multiply, so that milliseconds
of a pass against its window are a straight line from the first token on (docs/results.md), not flat up to a ridge.
"""

import dataclasses
from collections.abc import Iterable

from ssd_jax.plan.chips import Chip


@dataclasses.dataclass(frozen=True)
class Work:
    """One step of a pass, on one device.

    Attributes:
        moved: bytes read from and written to memory, attention excluded.
        attended: bytes that attention moves.
        unfused: bytes that it moves in addition where fused attention is not cuDNN's.
        flops: operations, at the rate of bfloat16.
        sent: bytes sent in rings.
    """

    moved: float = 0.0
    attended: float = 0.0
    unfused: float = 0.0
    flops: float = 0.0
    sent: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Work(*(mine + its for mine, its in pairs))

    def times(self, count: float) -> "Work":
        """`count` times this work."""
        return Work(*(count * own for own in dataclasses.astuple(self)))

    def all_moved(self, cudnn: bool) -> float:
        """Bytes moved, on a chip with or without cuDNN."""
        return self.moved + self.attended + (0.0 if cudnn else self.unfused)

    def seconds(self, chip: Chip) -> float:
        """Least seconds; sending does not overlap with the rest, which waits for it."""
        attended = self.attended + (0.0 if chip.cudnn else self.unfused)
        memory = self.moved / chip.bandwidth + attended / (chip.attention or chip.bandwidth)
        arithmetic = self.flops / chip.flops
        return (max(memory, arithmetic) if chip.overlaps else memory + arithmetic) + self.sent / chip.link


Steps = tuple[Work, ...]
"""Each waits for the previous one, so memory traffic of one does not overlap with arithmetic of another."""


def seconds(steps: Iterable[Work], chip: Chip) -> float:
    """Least seconds of consecutive steps."""
    return sum(step.seconds(chip) for step in steps)


def together(steps: Iterable[Work]) -> Work:
    """The sum of all steps' work."""
    return sum(steps, Work())
