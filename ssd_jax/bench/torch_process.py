"""Work for PyTorch and transformers in a process of its own, whose memory is free again when it ends."""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ssd_jax.errors import UserError

PACKAGES = ("torch", "transformers")
MISSING = re.compile("ImportError|ModuleNotFoundError|AttributeError: module transformers")
TAIL = 4096
INSTALL = 'pip install "ssd_jax[baseline]"'


def require_packages(what: str, packages: Sequence[str] = PACKAGES) -> None:
    """Raises `UserError`, which says what to install for `what`, if a package is not there."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what} needs {package}, which is not installed; {INSTALL} brings it.")


def run_process(module: str, job: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Gives a job, as JSON, to `python -m module`, without network for the hub. Its stderr, with the progress, goes to
    ours.

    Returns:
        the JSON object on the last line of its stdout.
    Raises:
        UserError: `what` needs other packages, or the process failed.
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    tail = bytearray()
    with subprocess.Popen([sys.executable, "-m", module], env=os.environ | {"HF_HUB_OFFLINE": "1"}, **pipes) as process:
        reader = threading.Thread(target=_forward, args=(process.stderr, tail))
        reader.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it may be dead already
                pipe.write(json.dumps(job).encode())
            out = process.stdout.read().decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
        finally:
            reader.join()
    code, lines = process.returncode, re.split("[\r\n]+", tail.decode(errors="replace").strip())
    if code == 0:
        return json.loads(out.splitlines()[-1])
    if MISSING.match(lines[-1]):
        raise UserError(f"{what} needs other versions of torch and transformers ({lines[-1]}); try {INSTALL}.")
    why = ", probably because memory ran out" if code == -9 else ""  # the kernel's way to get some back
    raise UserError(f"{what}'s process ended with exit code {code}{why}; its last line was: {lines[-1]}")


def _forward(source: IO[bytes], tail: bytearray) -> None:
    """Copies a stream to stderr as it comes; `tail` keeps its end."""
    while part := source.read1():
        sys.stderr.write(part.decode(errors="replace"))
        sys.stderr.flush()
        tail += part
        del tail[:-TAIL]
