"""Iterates over previews of images while they are drawn."""

import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self

from ssd_jax.pipeline.progress import Preview
from ssd_jax.pipeline.request import Output

Draw = Callable[[Callable[[Preview], None]], Output]
"""Draws, and calls its argument with every preview."""


class Stopped(Exception):
    """Ends a drawing whose stream nobody reads any more."""


class Stream:
    """An iterator over `Preview`s, of which the last one of every batch is complete.

    The drawing begins when the first preview is asked for, runs in a thread, and does not wait for the reader. It stops
    at the next pass that would be shown when the stream is closed or forgotten; `with` closes it.

    Attributes:
        output: what `Pipeline.generate` returns, once the iteration has ended; None before.
    """

    def __init__(self, draw: Draw):
        self.output: Output | None = None
        self._previews = _previews(draw)
        self._close = weakref.finalize(self, self._previews.close)  # also when the interpreter exits

    def __iter__(self) -> Iterator[Preview]:
        return self

    def __next__(self) -> Preview:
        try:
            return next(self._previews)
        except StopIteration as end:
            self.output = end.value or self.output
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the drawing; returns when it has stopped."""
        self._close()


def _previews(draw: Draw) -> Generator[Preview, None, Output]:
    """Draws in a thread; gives the previews, then returns the output."""
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def show(preview: Preview) -> None:
        if stopped.is_set():
            raise Stopped
        arrived.put(preview)

    def work() -> None:
        try:
            arrived.put(draw(show))
        except BaseException as error:  # raised where the stream is read
            arrived.put(error)

    # A daemon, so that the interpreter does not wait for the end of the drawing when it exits.
    thread = threading.Thread(target=work, name="ssd_jax stream", daemon=True)
    thread.start()
    try:
        while isinstance(item := arrived.get(), Preview):
            yield item
    finally:
        stopped.set()
        thread.join()
    if isinstance(item, BaseException):
        raise item
    return item
