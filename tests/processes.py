"""Several processes of an entry point at once, as on several machines."""

import os
import socket
import subprocess
import sys

from conftest import ROOT


def two_processes() -> list[list[str]]:
    """The flags of two processes with two simulated devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = ["--mesh=data:2,model:2", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [[*both, f"--process_id={index}"] for index in (0, 1)]


def run_together(*commands: list[str]) -> tuple[list[int], list[tuple[str, str]]]:
    """Runs entry points at the same time; their exit codes, and what they said on standard output and error.

    On standard output of several processes the library below jax tells of its connections.
    """
    environment = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started = [subprocess.Popen([sys.executable, *run], cwd=ROOT, env=environment, **pipes) for run in commands]
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said
