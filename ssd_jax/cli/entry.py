"""Shared code of the entry points: config files, devices, the compilation cache, reporting of user errors."""

import contextlib
import errno
import logging
import math
import os
import runpy
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ssd_jax.errors import UserError, shown
from ssd_jax.files import FULL
from ssd_jax.parallel.mesh import parse_mesh
from ssd_jax.parallel.processes import join

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
MIN_SECONDS_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

CONFIGS = Path(__file__).parents[1] / "configs"
"""Folder of the config files, which those in the checkout's configs/ re-export."""

DISK = FULL | {errno.EROFS}
"""Errors of writing files that are not ours, such as a full disk."""


def compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start is fast.

    They are in ~/.cache/ssd_jax (under $XDG_CACHE_HOME if that is set). JAX_COMPILATION_CACHE_DIR selects another
    folder; the empty string turns the cache off. Programs that compile in less than 0.2 seconds are not kept, unless
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says otherwise.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(base) / "ssd_jax" / "xla")
    if not folder:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    if MIN_SECONDS_VARIABLE not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


MOST_SIMULATED = 512
"""The most devices that a CPU simulates; jax aborts with some ten thousand."""


def use_devices(mesh: str, coordinator: str = "", processes: int | None = None, process: int | None = None) -> None:
    """Prepares the devices of --mesh; must be called before jax touches one.

    On CPU that many devices are simulated, which does not make it faster.

    Args:
        mesh: the flag's text, or "" for one device.
        coordinator, processes, process: the flags of a run of several processes (see `parallel.processes.join`).
    """
    if not mesh:
        if coordinator or processes is not None or process is not None:
            raise UserError("Several processes need --mesh, which says how the model is spread over their devices.")
        return
    count = math.prod(parse_mesh(mesh).values())
    if not coordinator and (processes is not None or process is not None):
        raise UserError("--num_processes and --process_id need --coordinator.")
    if (each := min(count // (processes or 1), MOST_SIMULATED)) > 1:  # one is there as it is
        jax.config.update("jax_num_cpu_devices", each)
    if coordinator:
        join(coordinator, processes, process)


def use_simulated_devices(mesh: str) -> None:
    """Hides accelerators and simulates the CPU devices of --mesh; must be called before jax touches one."""
    jax.config.update("jax_platforms", "cpu")
    use_devices(mesh)


def read_config(spec: str) -> Any:
    """The configuration of "configs/emoji.py" or "configs/emoji.py:variant"; a bare name such as "emoji" works too."""
    path = find_config(spec)
    try:
        return runpy.run_path(str(path))["get_config"](spec.partition(":")[2])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} gives no configuration: {error}.") from None


def find_config(spec: str) -> Path:
    """The file of a config's name, variant ignored: a path, or one of the package's files. Raises `UserError`, which
    lists those, if there is none."""
    name = spec.partition(":")[0]
    with contextlib.suppress(OSError, ValueError):  # not a valid file name
        for path in (Path(name), CONFIGS / Path(name).name, CONFIGS / f"{name}.py"):
            if path.is_file() and path.suffix == ".py":
                return path
    valid = ", ".join(f"{CONFIGS.name}/{path.name}" for path in sorted(CONFIGS.glob("[!_]*.py")))
    raise UserError(f"Unknown config {shown(spec)}; choose one of {valid}.")


def run(main: Callable[[], None]) -> None:
    """Runs an entry point; a `UserError`, or a full disk, becomes one sentence on standard error and exit code 2. If
    the reader of standard output is gone, the run ends silently, as other programs do."""
    # orbax and absl log every file they touch; warnings are enough.
    logging.getLogger("absl").setLevel(logging.WARNING)
    compilation_cache()
    try:
        main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        _end(f"error: {error}")
    except BrokenPipeError:
        if not _reader_gone():
            raise
        _forget_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in DISK:
            raise
        what = error.filename or "A file, or standard output,"
        _end(f"error: {what} cannot be written: {error.strerror}.")
    except KeyboardInterrupt:
        sys.exit(130)


def drawing_command() -> str:
    """The command with which this user samples: the script of a checkout, or that of an installed package."""
    return "python sample.py" if Path(sys.argv[0]).suffix == ".py" else "ssd-sample"


def _end(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    _forget_output()
    sys.exit(2)


def _reader_gone() -> bool:
    """Whether the reader of standard output is gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _forget_output() -> None:
    """If standard output cannot be written, discards its buffer, so that Python does not report it at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
