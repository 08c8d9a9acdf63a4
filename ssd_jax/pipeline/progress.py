"""Shows a running program's progress to the host."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Int32

from ssd_jax.decode.verifier import Progress
from ssd_jax.errors import UserError
from ssd_jax.pipeline.images import Pictures
from ssd_jax.sequence.layout import Grid
from ssd_jax.viz import uncovered

Told = Callable[[int, np.ndarray, np.ndarray], None]
"""What is told about a batch: its passes so far, tokens int32 [B, R*C], and which of them are final, bool [B, R*C]."""


class Reporter:
    """Tells the host how far a loop is: a `decode.verifier.Watch`, compiled into programs.

    The host answers whether the loop goes on, so the device waits for it.
    """

    def __init__(self):
        self._one_at_a_time = threading.Lock()
        self._told: Told | None = None
        self._error: BaseException | None = None

    def __call__(self, progress: Progress, passes: Int32[Array, ""]) -> Bool[Array, ""]:
        """See `decode.verifier.Watch`."""
        # One array, because every argument of a callback takes a tenth of a millisecond. -1 - t is a token t that is
        # not final.
        sent = jnp.where(progress.trace > 0, progress.tokens, -1 - progress.tokens)
        sent = jnp.pad(sent, ((0, 0), (0, 1)), constant_values=passes)
        return io_callback(self._tell, jax.ShapeDtypeStruct((), jnp.bool_), sent)

    @contextmanager
    def telling(self, told: Told) -> Iterator[None]:
        """Tells `told` while a program runs; what it raises stops the program, and is raised here afterwards."""
        with self._one_at_a_time:
            self._told, self._error = told, None
            try:
                yield
            finally:
                error, self._error = self._error, None
                self.silence()
        if error is not None:
            raise error

    def silence(self) -> None:
        """Tells nobody any more; the program stops when it would tell."""
        self._told = None

    def _tell(self, sent: jax.Array) -> np.ndarray:
        if (told := self._told) is None or self._error is not None:
            return np.bool_(False)
        try:
            received = np.asarray(sent)
            codes, passes = received[:, :-1], int(received[0, -1])
            told(passes, np.where(codes < 0, -1 - codes, codes), codes >= 0)
        except BaseException as error:  # of any kind: it would be lost in the runtime
            self._error = error
        return np.bool_(self._error is None)


@dataclasses.dataclass(frozen=True, eq=False)
class Preview:
    """Images that are being drawn; B are all of the call.

    Attributes:
        tokens: int32 [B, R, C]; those that are not final are drafts or 0.
        final: bool [B, R, C], which tokens are final. They come in raster order, on a slanted
            front (`Wave`), in several grid rows at once (`PJD`), or by anti-diagonals (`Flash`; with rounds all but the
            first come in the last pass).
        passes: verifier passes so far of the batch that is being drawn, the prefill included.
        pictures: the image tokenizer.
    """

    tokens: np.ndarray
    final: np.ndarray
    passes: int
    pictures: Pictures = dataclasses.field(repr=False)

    @property
    def share(self) -> float:
        """Share of the call's tokens that are final."""
        return float(self.final.mean())

    def images(self) -> np.ndarray:
        """uint8 [B, H, W, 3], grey where tokens are not final. Runs the image tokenizer on unfinished grids: near the
        edge of what is final, pixels change when the neighbouring tokens come. Not for use in `generate(progress=)`:
        an accelerator may run it only when the drawing has ended."""
        images = self.pictures.decode(np.where(self.final, self.tokens, 0))
        return np.stack([uncovered(*pair) for pair in zip(images, self.final, strict=True)])


class Previews:
    """Collects what is told about the batches of a call.

    Args:
        pictures: the image tokenizer.
        grid: R and C.
        images: number of images of the call.
        given: int32 [R*C], given codes, or -1; None: none.
        show: called with a `Preview` each time.
    """

    def __init__(
        self, pictures: Pictures, grid: Grid, images: int, given: np.ndarray | None, show: Callable[[Preview], None]
    ):
        if not callable(show):
            raise UserError(f"progress must be a function that takes a Preview, not {show!r}.")
        if jax.process_count() > 1:
            raise UserError("Progress cannot be shown when several processes draw together.")
        self.pictures, self.grid, self.show = pictures, grid, show
        self.given = np.full(grid.size, -1, np.int32) if given is None else given
        self.tokens = np.tile(np.maximum(self.given, 0), (images, 1))
        self.final = np.tile(self.given >= 0, (images, 1))
        self.passes = 0

    def of_batch(self, first: int) -> Told:
        """What to do when told about the batch whose first image is number `first`."""
        self.passes = 0

        def told(passes: int, tokens: np.ndarray, final: np.ndarray) -> None:
            part = slice(first, first + len(tokens))
            count = len(self.tokens[part])  # a last batch is filled with copies
            self.tokens[part] = np.where(self.given < 0, tokens[:count], self.given)
            self.final[part] = final[:count] | (self.given >= 0)
            self.passes = passes
            self._show()

        return told

    def finished(self, first: int, tokens: np.ndarray, passes: int) -> None:
        """Shows a batch that is finished, int32 [B, R*C], unless its last pass was shown."""
        part = slice(first, first + len(tokens))
        if not self.final[part].all():
            self.tokens[part], self.final[part] = tokens[: len(self.tokens[part])], True
            # Images of a batch may wait for each other, so that all have taken fewer passes than the batch.
            self.passes = max(self.passes, passes)
            self._show()

    def _show(self) -> None:
        shape = (-1, self.grid.rows, self.grid.cols)
        arrays = (array.reshape(shape).copy() for array in (self.tokens, self.final))
        self.show(Preview(*arrays, self.passes, self.pictures))
