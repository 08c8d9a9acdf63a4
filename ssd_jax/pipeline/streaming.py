"""Iterates over previews of images while they are drawn."""

import queue
import threading
from collections.abc import Callable, Iterator

from ssd_jax.pipeline.progress import Preview
from ssd_jax.pipeline.request import Output


class Stopped(Exception):
    """Ends a drawing whose stream nobody reads any more."""


class Stream:
    """An iterator over `Preview`s; the drawing runs beside it, in a thread, and does not wait for the reader.

    Attributes:
        output: what `Pipeline.generate` returns, when the last preview has been read; None before.
    """

    def __init__(self, draw: Callable[[Callable[[Preview], None]], Output]):
        self.output: Output | None = None
        self._draw = draw
        self._previews = self._run()

    def __iter__(self) -> Iterator[Preview]:
        return self

    def __next__(self) -> Preview:
        return next(self._previews)

    def close(self) -> None:
        """Stops the drawing at the next pass that is shown; returns when it has."""
        self._previews.close()

    def _run(self) -> Iterator[Preview]:
        arrived: queue.SimpleQueue = queue.SimpleQueue()
        stopped = threading.Event()

        def show(preview: Preview) -> None:
            if stopped.is_set():
                raise Stopped
            arrived.put(preview)

        def work() -> None:
            try:
                arrived.put(self._draw(show))
            except BaseException as error:  # raised where the stream is read
                arrived.put(error)

        thread = threading.Thread(target=work, name="ssd_jax stream")
        thread.start()
        try:
            while isinstance(item := arrived.get(), Preview):
                yield item
        finally:
            stopped.set()
            thread.join()
        if isinstance(item, BaseException):
            raise item
        self.output = item
