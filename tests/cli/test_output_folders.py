"""Output folders: files are whole or absent, one run writes at a time, and nothing stale stays beside a new sidecar."""

import contextlib
import errno
import functools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

import ssd_jax
from ssd_jax import UserError
from ssd_jax.cli import bench, output
from ssd_jax.files import replacing
from ssd_jax.lock import NAME, locked
from ssd_jax.results import replacing_results


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


# -- whole files


def test_two_threads_that_write_one_file_leave_one_of_their_files(tmp_path):
    path, both, failed = tmp_path / "file.txt", threading.Barrier(2), []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                both.wait(10)
                with replacing(path) as temporary:
                    temporary.write_text(letter * 100_000)
        except BaseException as error:
            failed.append(error)
            both.abort()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_same_file_written_twice_at_once_has_two_temporary_names(tmp_path):
    with replacing(tmp_path / "a.png") as first, replacing(tmp_path / "a.png") as second:
        assert first != second and {first.suffix, second.suffix} == {".png"}
        first.write_text("first")
        second.write_text("second")
    assert contents(tmp_path) == {"a.png": b"first"}


def test_a_file_has_the_permissions_that_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert contents(tmp_path) == {"a.txt": b"old"}


# -- the lock


def test_a_folder_is_locked_while_the_block_runs_and_has_no_trace_of_it_afterwards(tmp_path):
    out = tmp_path / "new" / "out"
    with locked(out):
        (out / "a.txt").write_text("a")
        for _ in range(2):  # being refused must not let go of it
            with pytest.raises(UserError, match=f"Another run is writing into the folder {out};"), locked(out):
                pass
        assert (out / NAME).exists()
    assert os.listdir(out) == ["a.txt"]
    with locked(out):
        pass
    assert os.listdir(out) == ["a.txt"]


def test_a_folder_that_a_run_made_and_left_empty_is_gone(tmp_path):
    (tmp_path / "old").mkdir()
    for path in (tmp_path / "new" / "out", tmp_path / "old"):
        with pytest.raises(KeyError), locked(path):
            raise KeyError
    assert os.listdir(tmp_path) == ["old"]


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from ssd_jax.lock import locked\nwith locked(sys.argv[1]): print(flush=True), time.sleep(99)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline()
        with pytest.raises(UserError, match="Another run"), locked(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert os.listdir(tmp_path) == [NAME]  # what a lock by the file's mere presence would stumble over
    with locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_was_writing_is_gone_after_the_next_run(tmp_path):
    """In the folder and in those inside it; files of anybody else, links and folders stay."""
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from ssd_jax.files import beside\nfrom ssd_jax.lock import locked\n"
        "folder = Path(sys.argv[1])\n"
        "with locked(folder), beside(folder / 'a.png'), beside(folder / 'export' / 'b.json'):\n"
        "    print(flush=True), time.sleep(99)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    writer.stdout.readline()
    writer.kill()
    writer.wait()
    left = [path for path in tmp_path.rglob("*.tmp*")]
    assert len(left) == 2
    kept = [tmp_path / ".notes.tmp", tmp_path / ".a.0123.tmp.png", tmp_path / ("a." + "0" * 16 + ".tmp.png")]
    for path in kept:
        path.touch()
    (tmp_path / ("." + "l." + "0" * 16 + ".tmp")).symlink_to(kept[0])
    with locked(tmp_path):
        assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in kept) and len(list(tmp_path.glob(".l.*"))) == 1


def test_never_two_at_once_though_the_file_comes_and_goes(tmp_path):
    """Until some were inside and some were refused; how long that takes depends on what else the machine does."""
    out, inside, most, held, others = tmp_path / "out", [], [], [], []
    deadline = time.monotonic() + 60

    def work() -> None:
        while (len(held) < 50 or not others) and time.monotonic() < deadline:
            try:
                with locked(out):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0)
                    most.append(len(inside))
                    inside.pop()
                held.append(1)
            except UserError as error:
                others.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) >= 50 and max(most) == 1
    assert others and all("Another run" in message for message in others)
    assert not (out / NAME).exists()


def test_a_lock_that_somebody_removed_takes_no_other_run_s_with_it(tmp_path):
    with contextlib.ExitStack() as later:
        with locked(tmp_path):
            (tmp_path / NAME).unlink()
            later.enter_context(locked(tmp_path))
        with pytest.raises(UserError, match="Another run"), locked(tmp_path):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/out", "taken", "new/" + 300 * "x"])
def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / NAME).symlink_to(tmp_path / "file")
    out = tmp_path / name
    with pytest.raises(UserError, match="cannot be written to: ") as caught, locked(out):
        pass
    assert str(out) in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way" and sorted(os.listdir(tmp_path)) == ["file", "taken"]


def test_where_locks_do_not_exist_a_run_goes_on(tmp_path, monkeypatch):
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr("ssd_jax.lock.fcntl.flock", refuse)
        with pytest.warns(UserWarning, match="cannot be locked: No locks available"), locked(tmp_path / "out"):
            pass
    monkeypatch.setattr("ssd_jax.lock.fcntl", None)  # as on Windows
    with locked(tmp_path / "out"), locked(tmp_path / "out"):
        assert os.listdir(tmp_path / "out") == []
    assert os.listdir(tmp_path) == []


def test_a_second_sample_py_is_refused_before_it_looks_for_a_model(command_line, tmp_path):
    with locked(tmp_path):
        code, stdout, stderr = command_line("--weights=/nowhere", f"--out={tmp_path}", "--prompt=dog")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith(f"error: Another run is writing into the folder {tmp_path};")


def test_a_second_bench_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench", f"--out={tmp_path}"])
    with locked(tmp_path), pytest.raises(UserError, match="Another run is writing"):
        bench.main()


# -- the files of an earlier run


@pytest.fixture(scope="module")
def load():
    """`ssd_jax.load` that reads a checkpoint once, so that one program serves all runs."""
    return functools.cache(ssd_jax.load)


@pytest.fixture
def run(command_line, random_folder, monkeypatch, load):
    """run(folder, *flags) of sample.py -> exit code, standard output, standard error."""
    monkeypatch.setattr("ssd_jax.pipeline.opening.load", load)
    always = f"--weights={random_folder}", "--cfg_scale=1", "--max_batch=1"
    return lambda folder, *flags: command_line(f"--out={folder}", *always, *flags)


@pytest.fixture
def drawn(run):
    """drawn(folder, *flags) -> standard output and error of a run of sample.py that ends well."""

    def well(folder: Path, *flags: str) -> tuple[str, str]:
        code, stdout, stderr = run(folder, *flags)
        assert code == 0, stderr
        return stdout, stderr

    return well


def remove_earlier(folder: Path) -> tuple[int, list[Path]]:
    """What a run removes that leaves no images, and the sidecars that it cannot read."""
    with replacing_results(folder, "new.json") as results:
        pass
    (folder / "new.json").unlink()
    return results.removed, results.unread


TWO, ONE = ("--prompt=dog", "--prompt=cat"), ("--prompt=dog",)
PLAIN = ["000.png", "grid.png", "images.json"]


def test_a_new_run_removes_the_files_of_the_old_one_and_says_so(drawn, tmp_path):
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / "001-mine.png").write_text("mine")
    stdout, _ = drawn(tmp_path, *TWO, "--trace")
    assert "Removed" not in stdout
    listed = json.loads((tmp_path / "images.json").read_text())["files"]
    traces = ["000-trace.png", "000.gif", "001-trace.png", "001.gif"]
    assert sorted(listed) == sorted(["000.png", "001.png", "grid.png", *traces])
    stdout, stderr = drawn(tmp_path, *ONE)
    assert stdout.splitlines()[0] == f"Removed 8 files of an earlier run from {tmp_path}." and stderr == ""
    assert sorted(contents(tmp_path)) == sorted([*PLAIN, "mine.png", "001-mine.png"])
    assert json.loads((tmp_path / "images.json").read_text())["files"] == ["000.png", "grid.png"]


def test_a_comparison_and_pictures_make_way_for_each_other(drawn, tmp_path):
    drawn(tmp_path, *TWO)
    stdout, _ = drawn(tmp_path, *ONE, "--compare=ar", "--trace")
    assert stdout.startswith("Removed 4 files of an earlier run")
    assert sorted(contents(tmp_path)) == ["ar-000-trace.png", "ar-000.gif", "compare.json", "compare.png"]
    drawn(tmp_path, *ONE)
    assert sorted(contents(tmp_path)) == PLAIN


def test_the_files_of_a_sidecar_without_a_list_of_files_are_removed_too(tmp_path):
    """As sample.py wrote them before it listed all files."""
    for name in ("000.png", "grid.png", "compare.png", "other.png"):
        (tmp_path / name).touch()
    (tmp_path / "images.json").write_text(json.dumps({"options": {}, "images": [{"file": "000.png"}]}))
    (tmp_path / "compare.json").write_text(json.dumps({"options": {}, "images": [{"prompt": "dog"}]}))
    assert remove_earlier(tmp_path) == (5, [])
    assert os.listdir(tmp_path) == ["other.png"]


HOSTILE = {
    "a parent": ["../victim.png"],
    "from the root": ["/victim.png"],
    "below": ["below/victim.png"],
    "of windows": ["..\\victim.png", "C:victim.png"],
    "the folder": ["."],
    "its parent": [".."],
    "empty": [""],
    "no name": ["000\0.png"],
    "no text": [3],
    "none": [None],
    "a list": [["000.png"]],
    "half a letter": ["\ud800.png"],
    "no picture": ["train.py"],
    "hidden": [".png"],
    "good ones beside a bad one": ["000.png", "../victim.png"],
}


@pytest.mark.parametrize("names", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("key", ["files", "images"])
def test_a_sidecar_that_names_anything_but_pictures_here_removes_nothing(tmp_path, names, key):
    out = tmp_path / "out"
    (out / "below").mkdir(parents=True)
    for path in (
        tmp_path / "victim.png",
        out / "below" / "victim.png",
        out / "000.png",
        out / "train.py",
        out / "C:victim.png",
    ):
        path.touch()
    listed = {"files": names, "images": []} if key == "files" else {"images": [{"file": name} for name in names]}
    (out / "images.json").write_text(json.dumps({"options": {}, **listed}))
    before = sorted(tmp_path.rglob("*"))
    assert remove_earlier(out) == (0, [out / "images.json"])
    assert sorted(tmp_path.rglob("*")) == before


BROKEN = [b"", b"{", b"\xff\xfe", b"[]", b"3", b'"options"', b"{}", b'{"options": {}}', b"[" * 100_000]
BROKEN += [b'{"options": {}, "images": 3}', b'{"options": {}, "images": [3]}', b'{"options": {}, "images": ["file"]}']
BROKEN += [b'{"images": [{"file": "000.png"}]}', b'{"options": {}, "files": 3, "images": []}']


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:40].decode("latin-1"))
def test_a_sidecar_that_is_broken_or_anothers_removes_nothing(tmp_path, text):
    for name in ("000.png", "grid.png"):
        (tmp_path / name).touch()
    (tmp_path / "images.json").write_bytes(text)
    assert remove_earlier(tmp_path) == (0, [tmp_path / "images.json"])
    assert len(os.listdir(tmp_path)) == 3


def test_a_broken_sidecar_is_replaced_with_a_warning(drawn, tmp_path):
    (tmp_path / "images.json").write_text("{")
    (tmp_path / "005.png").write_text("mine")
    stdout, stderr = drawn(tmp_path, *ONE)
    assert "Removed" not in stdout
    assert stderr.startswith("warning: ") and stderr.count("\n") == 1 and str(tmp_path / "images.json") in stderr
    assert sorted(contents(tmp_path)) == sorted([*PLAIN, "005.png"])
    assert json.loads((tmp_path / "images.json").read_text())["files"] == ["000.png", "grid.png"]


def test_links_go_and_what_they_lead_to_stays_and_so_do_folders_and_pipes(tmp_path):
    out = tmp_path / "out"
    (out / "folder.png").mkdir(parents=True)
    os.mkfifo(out / "pipe.png")
    (tmp_path / "victim.png").write_text("mine")
    (out / "link.png").symlink_to(tmp_path / "victim.png")
    (out / "lost.png").symlink_to(tmp_path / "nowhere")
    names = ["folder.png", "pipe.png", "link.png", "lost.png", "absent.png", 300 * "x" + ".png"]
    (out / "images.json").write_text(json.dumps({"options": {}, "images": [], "files": names}))
    assert remove_earlier(out) == (3, [])
    assert sorted(os.listdir(out)) == ["folder.png", "pipe.png"]
    assert (tmp_path / "victim.png").read_text() == "mine"


def test_a_pipe_as_the_sidecar_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "images.json")
    assert remove_earlier(tmp_path) == (0, [])


def full(*arguments, **options) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["grid", "heat_map", "write_gif"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_run_whole(drawn, run, tmp_path, monkeypatch, where):
    drawn(tmp_path, *TWO)
    before = contents(tmp_path)
    monkeypatch.setattr(output, where, full)
    code, stdout, stderr = run(tmp_path, *ONE, "--seed=9", "--trace")
    assert (code, stdout) == (2, "")
    assert stderr == f"error: The files cannot be written to the folder {tmp_path}: No space left on device.\n"
    assert contents(tmp_path) == before


def test_a_run_that_fails_while_it_decodes_leaves_the_old_one_whole(drawn, run, tmp_path, monkeypatch):
    drawn(tmp_path, *TWO)
    before = contents(tmp_path)
    monkeypatch.setattr("ssd_jax.pipeline.pipeline.Pipeline.decode", full)
    code, stdout, stderr = run(tmp_path, *ONE)
    assert (code, stdout, stderr) == (
        2,
        "",
        "error: A file, or standard output, cannot be written: No space left on device.\n",
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("placed", [0, 1, 2])
def test_no_sidecar_tells_of_files_that_could_not_be_put_in_place(tmp_path, monkeypatch, placed):
    """What was not replaced before is still there; and all of the earlier run, if nothing was."""
    names = ["000.png", "001.png", "005.png"]
    for name in names:
        (tmp_path / name).write_text("old")
    for sidecar, images in (("images.json", [{"file": name} for name in names]), ("compare.json", [])):
        (tmp_path / sidecar).write_text(json.dumps({"options": {}, "images": images}))
    before, done, replace = contents(tmp_path), [], os.replace

    def some(source: Path, target: Path) -> None:
        if len(done) == placed:
            full()
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", some)
    with pytest.raises(UserError, match="No space left"), replacing_results(tmp_path, "images.json") as results:
        for name in names[:2]:
            Image.new("RGB", (1, 1)).save(results.add(name))
        results.record = {"options": {}, "images": []}
    assert [path.name for path in done] == names[:placed]
    after = contents(tmp_path)
    if not placed:
        assert after == before
        return
    assert list(after) == (names if placed == 1 else names[:2])
    for name, content in after.items():
        assert (content == b"old") == (name not in names[:placed])


@pytest.mark.parametrize("name", ["001.png", "images.json"])
def test_a_folder_in_the_way_is_one_sentence_and_leaves_the_old_run_whole(drawn, run, tmp_path, name):
    drawn(tmp_path, *ONE)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    before = contents(tmp_path)
    code, stdout, stderr = run(tmp_path, *TWO)
    assert (code, stdout) == (2, "")
    assert stderr == f"error: The file {tmp_path / name} cannot be written: a folder has its name.\n"
    assert contents(tmp_path) == before and (tmp_path / name).is_dir()
