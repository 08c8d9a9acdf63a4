"""What the entry points share: the compilation cache, and how a user's mistake is reported."""

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

CONFIGS = Path(__file__).parents[1] / "configs"
"""The config files. Those of the checkout's own folder configs/ refer to them."""

DISK = FULL | {errno.EROFS}
"""What the system answers to whoever writes, where it is nobody's mistake in here."""


def compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start is fast.

    They lie in ~/.cache/ssd_jax (under $XDG_CACHE_HOME if that is set). JAX_COMPILATION_CACHE_DIR names another folder;
    set to the empty string it turns the cache off.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(base) / "ssd_jax" / "xla")
    if not folder:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


MOST_SIMULATED = 512
"""Devices that a CPU simulates at most; jax ends the process if there are some ten thousand."""


def use_devices(mesh: str, coordinator: str = "", processes: int | None = None, process: int | None = None) -> None:
    """Prepares the devices that --mesh names; must come before jax touches one.

    Where jax runs on CPU, so many devices are simulated. Their number says nothing of speed.

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
    jax.config.update("jax_num_cpu_devices", min(max(1, count // (processes or 1)), MOST_SIMULATED))
    if coordinator:
        join(coordinator, processes, process)


def use_simulated_devices(mesh: str) -> None:
    """Lets jax see no accelerator, but as many CPU devices as --mesh names; must come before jax touches one."""
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
    """The file that a config's name, without regard to its variant, means: a path, or one that the package has. Raises
    `UserError`, which lists those, if there is none."""
    name = spec.partition(":")[0]
    with contextlib.suppress(OSError, ValueError):  # no name that a file can have
        for path in (Path(name), CONFIGS / Path(name).name, CONFIGS / f"{name}.py"):
            if path.is_file() and path.suffix == ".py":
                return path
    valid = ", ".join(f"{CONFIGS.name}/{path.name}" for path in sorted(CONFIGS.glob("[!_]*.py")))
    raise UserError(f"Unknown config {shown(spec)}; choose one of {valid}.")


def run(main: Callable[[], None]) -> None:
    """Runs an entry point; a `UserError`, or a disk that is full, becomes one sentence on standard error and exit code
    2. If whoever reads standard output has gone, the run ends as other programs do, without a word."""
    # orbax and absl tell of every file they touch; warnings are enough for people.
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
    """How this user draws: with the script of a checkout, or with the command of an installed package."""
    return "python sample.py" if Path(sys.argv[0]).suffix == ".py" else "ssd-sample"


def _end(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    _forget_output()
    sys.exit(2)


def _reader_gone() -> bool:
    """Whether nobody reads standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _forget_output() -> None:
    """If standard output cannot be written, what it still holds goes nowhere, lest Python tell of it when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
