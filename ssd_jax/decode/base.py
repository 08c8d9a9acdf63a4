"""Defines `Decoder`, the interface of all decoders, and their registry."""

from typing import TypeVar

from jaxtyping import Array, Float

from ssd_jax.decode.cost import Count, Stretches
from ssd_jax.decode.state import Decoded
from ssd_jax.decode.verifier import Cache, Verifier
from ssd_jax.errors import UserError
from ssd_jax.sequence.layout import Grid

KINDS: dict[str, type["Decoder"]] = {}
"""Decoder classes by their name on command lines, as in "SSD(rounds=0)"; see `register`."""


class Decoder:
    """A way to decode a grid of tokens. Subclasses are frozen dataclasses with the options as fields, so that one is a
    static argument of the jitted program.
    """

    # Applies to a subclass's options, not to its methods: `__post_init__` checks them with readable messages.
    __no_type_check__ = True

    @property
    def adaptive(self) -> bool:
        """Whether the number of passes depends on the image."""
        return False

    @property
    def heads(self) -> tuple[int, int]:
        """The least numbers of horizontal and vertical draft heads that it needs."""
        return 0, 0

    @property
    def branch(self) -> bool:
        """Whether it needs a vertical branch."""
        return False

    @property
    def lossless(self) -> bool:
        """Whether its images follow the backbone's distribution exactly, on every grid."""
        return False

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch.

        Args:
            verifier: the model, bound to prompts.
            cache: the cache after the prefill.
            hidden: the prefill's last hidden state, which predicts token 0.
            grid: R and C.
        """
        raise NotImplementedError

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """Its pass cost on a grid, by kind of pass, with `horizontal` horizontal draft heads: for the plan, the bench,
        and `generate`'s check of memory.

        `passes` is the total of an adaptive decoder, or a mean; None stands for the fewest possible.
        """
        raise NotImplementedError

    def check(self, grid: Grid) -> None:
        """Raises `UserError` if an option exceeds the grid. Not called for presets, which the loops clip."""

    def on_accelerator(self) -> "Decoder":
        """The decoder with the options that it has on accelerators, whatever this machine is."""
        return self

    def runs_with(self, horizontal: int, vertical: int, branch_layers: int = 0) -> bool:
        """Whether this many draft heads, and layers of a vertical branch, are enough; 0 stands for none."""
        return horizontal >= self.heads[0] and vertical >= self.heads[1] and (branch_layers > 0 or not self.branch)


def require_window(window: int, grid: Grid) -> None:
    """Raises `UserError` if a window is larger than a grid."""
    if window > grid.size:
        raise UserError(f"A window of {window} is larger than the image, which has {grid.size} tokens.")


Kind = TypeVar("Kind", bound=type[Decoder])


def register(kind: Kind) -> Kind:
    """Class decorator that registers a decoder class by its name, for command lines and the bench."""
    known = KINDS.get(kind.__name__, kind)
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"there is another decoder of the name {kind.__name__}")
    KINDS[kind.__name__] = kind  # also if a notebook defines its class again
    return kind
