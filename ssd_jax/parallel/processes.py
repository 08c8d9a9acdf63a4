"""Joins several processes into one run: all name the same coordinator, and the mesh spans all their devices.

All processes run the same program on their shards of the arrays; only the first prints and writes files.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssd_jax.errors import UserError

AUTO = "auto"
"""As coordinator: found by the cluster (a TPU slice, Slurm, ...), see `jax.distributed.initialize`."""

PATIENCE = 300
"""Seconds to wait for the other processes, which may still be importing libraries."""


def join(coordinator: str, processes: int | None, process: int | None, patience: int = PATIENCE) -> None:
    """Makes this process one of several; must come before jax touches a device.

    Args:
        coordinator: HOST:PORT of the first process, the same for all; or "auto".
        processes, process: number of processes and index of this one, from 0; None with "auto".
        patience: seconds to wait for the other processes.
    Raises:
        UserError: a malformed or unreachable coordinator, numbers that do not fit. If the others do not join in time,
            this process exits with a sentence on standard error and exit code 2.
    """
    if coordinator == AUTO:
        if processes is not None or process is not None:
            raise UserError("With --coordinator=auto the cluster says how many processes there are; leave them out.")
        arguments = {}
    else:
        host, port = _parse(coordinator)
        if processes is None or process is None:
            raise UserError("--coordinator needs --num_processes and --process_id, or write --coordinator=auto.")
        if not 0 <= process < processes:
            raise UserError(f"--process_id must be between 0 and {processes - 1}, not {process}.")
        # jax's own client would abort the process with a stack trace; these checks give a readable message.
        if process == 0:
            _check_own(host, port)
        else:
            _wait_for(host, port, patience)
        arguments = dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
    awaited = "some" if processes is None else f"some of the {processes}"
    try:
        with _ending(patience, f"After {patience} s {awaited} processes of the coordinator {coordinator} are missing."):
            jax.distributed.initialize(**arguments, initialization_timeout=patience + 60)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The processes of the coordinator {coordinator} did not come together: {reason}") from None


def is_first() -> bool:
    """Whether this process is the one that prints and writes; without `join` it is."""
    return jax.process_index() == 0


def together(name: str, work: Callable[[], object] = lambda: None) -> None:
    """Runs `work` in the first process while the others wait. It must write to a folder that all processes share.

    Args:
        name: name of the work, for messages.
        work: if it raises, every process stops: the first with the error, the others with a `UserError`.
    """
    failure = None
    if is_first():
        try:
            work()
        except Exception as error:  # otherwise the others would wait for ever
            failure = error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
        if multihost_utils.broadcast_one_to_all(np.bool_(failure is not None)) and not is_first():
            raise UserError(f"The first process stopped at {name!r}; it says why.")
    if failure is not None:
        raise failure


def of_first(values: np.ndarray) -> np.ndarray:
    """The first process's values, in every process; all pass arrays of the same shape and dtype."""
    return np.asarray(multihost_utils.broadcast_one_to_all(values)) if jax.process_count() > 1 else values


@contextlib.contextmanager
def _ending(seconds: float, sentence: str) -> Iterator[None]:
    """Exits the process with a sentence if the block takes this many seconds; jax's client would abort it with a stack
    trace, which cannot be caught."""

    def end() -> None:
        sys.stderr.write(f"error: {sentence}\n")
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _parse(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"The coordinator is HOST:PORT of the first process, or auto, not {coordinator!r}.")
    return host, int(port)


def _check_own(host: str, port: int) -> None:
    """Raises unless this machine can listen at the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UserError(f"Process 0 cannot be the coordinator at {host}:{port}: {reason}.") from None


def _wait_for(host: str, port: int, patience: int) -> None:
    """Waits until something listens at the address."""
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise UserError(f"Nothing answers at the coordinator's address {host}:{port}: {reason}.") from None
        time.sleep(0.2)
