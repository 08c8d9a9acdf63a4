"""Iterates over previews of images while they are drawn."""

import atexit
import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Self

from ssd_jax.pipeline.progress import Preview
from ssd_jax.pipeline.request import Output

Draw = Callable[[Callable[[Preview], None]], Output]
"""Draws, and calls its argument with every preview."""

UNREAD = 64
"""The most previews that wait for the reader; older ones are left out."""

_running: dict[threading.Thread, threading.Event] = {}


class Stopped(Exception):
    """Ends a drawing whose stream nobody reads any more."""


class Stream:
    """An iterator over `Preview`s, of which the last one of every batch is complete, unless `max_passes` ended it.

    The drawing begins when the first preview is asked for, runs in a thread of its own, in which `with jax....` around
    the reader has no effect, and does not wait for the reader. It stops at the next pass that would be shown when the
    stream is closed or forgotten; `with` closes it.

    Attributes:
        output: what `Pipeline.generate` returns, once the iteration has ended; None before.
    """

    def __init__(self, draw: Draw):
        self.output: Output | None = None
        self._arrived: queue.SimpleQueue[Preview | Output | BaseException] = queue.SimpleQueue()
        self._stopped, self._ended = threading.Event(), False
        # A daemon, so that the interpreter does not wait for the end of the drawing when it exits.
        arguments = draw, self._arrived, self._stopped
        self._thread = threading.Thread(target=_work, args=arguments, name="ssd_jax stream", daemon=True)
        # It does not wait: what is forgotten may be found in any thread, also in the one that it would wait for.
        weakref.finalize(self, self._stopped.set)

    def __iter__(self) -> Iterator[Preview]:
        return self

    def __next__(self) -> Preview:
        if self._ended or self._stopped.is_set():
            raise StopIteration
        if self._thread.ident is None:
            _running[self._thread] = self._stopped
            self._thread.start()
        item = self._arrived.get()
        if isinstance(item, Preview):
            return item
        self._ended = True
        if isinstance(item, Output):
            self.output = item
        elif not isinstance(item, Stopped):
            raise item
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the drawing, from any thread; returns when it has stopped."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()


def _work(draw: Draw, arrived: queue.SimpleQueue, stopped: threading.Event) -> None:
    """Draws; the queue gets the previews, then the output or what was raised."""

    def show(preview: Preview) -> None:
        if stopped.is_set():
            raise Stopped
        if arrived.qsize() >= UNREAD:
            with contextlib.suppress(queue.Empty):
                arrived.get_nowait()
        arrived.put(preview)

    try:
        arrived.put(draw(show))
    except BaseException as error:  # raised where the stream is read
        arrived.put(error)
    finally:
        _running.pop(threading.current_thread(), None)


@atexit.register
def _stop_all() -> None:
    """Stops what is being drawn: a program must not run while the interpreter goes away."""
    for thread, stopped in list(_running.items()):
        stopped.set()
        thread.join()
