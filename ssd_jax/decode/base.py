"""What a decoder is: options in a frozen dataclass, and what the engine, the plan and the bench ask of it."""

from typing import TypeVar

from jaxtyping import Array, Float

from ssd_jax.decode.cost import Count, Stretches
from ssd_jax.decode.state import Decoded
from ssd_jax.decode.verifier import Cache, Verifier
from ssd_jax.errors import UserError
from ssd_jax.sequence.layout import Grid

KINDS: dict[str, type["Decoder"]] = {}
"""Decoders by the name that they have on a command line, "SSD(rounds=0)"; see `register`."""


class Decoder:
    """A way to draw a grid of tokens. Subclasses are frozen dataclasses, so that one is a static argument of the jitted
    program.
    """

    # Of a subclass's options alone, not of its methods: `__post_init__` looks at them and says what is wrong in words.
    __no_type_check__ = True

    @property
    def adaptive(self) -> bool:
        """Whether the number of passes depends on the picture."""
        return False

    @property
    def heads(self) -> tuple[int, int]:
        """How many horizontal and vertical draft heads it needs at least."""
        return 0, 0

    @property
    def lossless(self) -> bool:
        """Whether its pictures are known to follow the backbone's distribution exactly, on every grid."""
        return False

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch.

        Args:
            verifier: the model.
            cache: after the prefill.
            hidden: the prefill's last hidden state, which predicts token 0.
            grid: R and C.
        """
        raise NotImplementedError

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """Its passes on a grid, by kind, with so many horizontal heads: for the plan, the bench, and `generate`, which
        asks whether they fit in memory.

        `passes` is the total of an adaptive one, or a mean; None stands for the fewest that it can take.
        """
        raise NotImplementedError

    def check(self, grid: Grid) -> None:
        """Raises `UserError` if it asks for more at once than a grid has. Presets are not asked: loops cut them."""

    def on_accelerator(self) -> "Decoder":
        """The decoder as it is where decoding does not run on a CPU, whatever this machine is."""
        return self

    def runs_with(self, horizontal: int, vertical: int) -> bool:
        """Whether so many draft heads are enough; 0 and 0 stands for no heads."""
        return horizontal >= self.heads[0] and vertical >= self.heads[1]


def require_window(window: int, grid: Grid) -> None:
    """Raises `UserError` if a window is larger than a grid."""
    if window > grid.size:
        raise UserError(f"A window of {window} is larger than the picture, which has {grid.size} tokens.")


Kind = TypeVar("Kind", bound=type[Decoder])


def register(kind: Kind) -> Kind:
    """Makes a kind of decoder known by its name: on command lines and in the bench. For use as a class decorator."""
    known = KINDS.get(kind.__name__, kind)
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"there is another decoder of the name {kind.__name__}")
    KINDS[kind.__name__] = kind  # also where a notebook defines its class once more
    return kind
