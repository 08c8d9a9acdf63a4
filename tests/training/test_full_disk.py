"""A full disk, or a closed standard output: one sentence, and no partial files."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from ssd_jax.cli import entry
from ssd_jax.errors import UserError
from ssd_jax.training.checkpoint import Checkpoints

TALKS = "from ssd_jax.cli import entry; entry.run(lambda: [print(n) for n in range(100_000)])"
STATE = {"w": jnp.arange(1000.0)}


def talk(stdout) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", TALKS], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_standard_output_that_is_full_is_named():
    with open("/dev/full", "w") as full:
        done = talk(full)
    assert done.returncode == 2
    assert done.stderr == "error: A file, or standard output, cannot be written: No space left on device.\n"


def test_a_reader_that_has_gone_ends_a_run_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = talk(pipe)
    assert (done.returncode, done.stderr) == (141, "")


def ended(capsys, error: BaseException) -> tuple[int, str, str]:
    """Exit code, standard output and error of an entry point that raises."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        entry.run(main)
    return stopped.value.code, *capsys.readouterr()


def test_a_file_that_cannot_be_written_is_named(capsys):
    said = ended(capsys, OSError(errno.EROFS, "Read-only file system", "/mnt/000.png"))
    assert said == (2, "", "error: /mnt/000.png cannot be written: Read-only file system.\n")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error", "model.safetensors"), KeyError("a bug")])
def test_what_is_no_full_disk_keeps_its_traceback(capsys, error):
    with pytest.raises(type(error)):
        ended(capsys, error)


def test_the_broken_pipe_of_somebody_else_is_told():
    code = "from ssd_jax.cli import entry\ndef main(): raise BrokenPipeError(32, 'Broken pipe')\nentry.run(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


def test_data_that_does_not_fit_is_refused_with_what_it_needs(tmp_path):
    """A limit on the size of files stands for a disk that is full: it, too, is met while writing."""
    command = [sys.executable, "train.py", "--config=configs/emoji.py:tiny"]
    command += [f"--config.workdir={tmp_path / 'runs'}", f"--config.data={tmp_path / 'data'}"]

    small_files = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "bash"]
    done = subprocess.run([*small_files, *command], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last == f"error: The emoji images cannot be written to {tmp_path / 'data'}: File too large."
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*data*"))


def test_a_state_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    states = Checkpoints(tmp_path)
    states.save(1, STATE)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(
            UserError, match=r"The state of step 2 cannot be written to .*: 0\.0 MB are needed, 0\.0 MB"
        ):
            states.save(2, STATE)
    assert states.latest() == 1 and [path.name for path in tmp_path.iterdir()] == ["1"]
    states.save(2, STATE)  # there is room now
    np.testing.assert_array_equal(states.restore(2, STATE)["w"], STATE["w"])


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_state_that_fills_a_quota_leaves_nothing(tmp_path, monkeypatch, kind):
    states = Checkpoints(tmp_path)

    def full(step, args):
        (tmp_path / f"{step}.orbax-checkpoint-tmp" / "default").mkdir(parents=True)
        raise kind(f"RESOURCE_EXHAUSTED: Failed to write: {os.strerror(errno.EDQUOT)} [os_error_code='122']")

    with monkeypatch.context() as patched:
        patched.setattr(states._manager, "save", full)
        with pytest.raises(UserError, match=r"The state of step 1 \(0\.0 MB\) cannot be written to .*: Disk quota exc"):
            states.save(1, STATE)
    assert not list(tmp_path.iterdir())
    states.save(1, STATE)
    assert states.latest() == 1


def test_another_failure_of_a_state_is_no_full_disk(tmp_path, monkeypatch):
    states = Checkpoints(tmp_path)

    def broken(step, args):
        raise ValueError("of another kind")

    monkeypatch.setattr(states._manager, "save", broken)
    with pytest.raises(ValueError, match="of another kind") as caught:
        states.save(1, STATE)
    assert not isinstance(caught.value, UserError)
