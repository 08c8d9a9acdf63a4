"""colab/ssd_jax.ipynb runs from top to bottom; here on a CPU, with its tiny switch and a small random checkpoint."""

import base64
import io
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from PIL import Image
from published_folders import published_folder

NOTEBOOK = ROOT / "colab" / "ssd_jax.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def cell(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    (found,) = [cell for cell in notebook.cells if cell.id == name]
    return found


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def shown(cell: nbformat.NotebookNode) -> list[np.ndarray]:
    """The images below a cell, uint8 [height, width, 3]."""
    found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def passes(cell: nbformat.NotebookNode) -> dict[str, float]:
    """Decoder -> passes, as `compare` prints them."""
    return {words[0]: float(words[1]) for words in map(str.split, printed(cell).splitlines()) if "passes" in words}


def settings(**values) -> nbformat.NotebookNode:
    """A cell that goes behind the settings, or before cells that are run again."""
    return new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items()))


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    """The notebook, all cells of it run with a checkpoint; behind them those of the published checkpoint again, without
    one (ids "again-...") and with one that would have to be downloaded ("refused")."""
    folder, notebook = tmp_path_factory.mktemp("notebook"), read()
    weights = published_folder("janus_pro", folder / "checkpoint")
    given = dict(SOURCE=str(ROOT), CHECKPOINT=str(weights), CONFIG="configs/janus_pro.py:tiny", OUT="results")
    given |= dict(TRAIN=True, STEPS=12, PICTURES=24, TINY=True)
    notebook.cells.insert(1 + notebook.cells.index(cell(notebook, "settings")), settings(**given))
    notebook.cells.append(settings(CHECKPOINT=""))
    for name in ("published", "train", "heads"):
        notebook.cells.append(new_code_cell(cell(notebook, name).source, id=f"again-{name}"))
    notebook.cells.append(settings(CHECKPOINT="someone/something"))
    expected = {"tags": ["raises-exception"]}
    notebook.cells.append(new_code_cell(cell(notebook, "published").source, id="refused", metadata=expected))
    with pytest.MonkeyPatch.context() as environment:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            environment.setenv(name, str(folder / "jupyter"))
        environment.delenv("PYTHONPATH", raising=False)  # SOURCE has to do
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata["folder"] = str(folder)
    return notebook


def test_the_committed_notebook_is_valid_and_was_not_run():
    notebook = read()
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.metadata.kernelspec.name == "python3"
    assert cell(notebook, "settings").metadata.tags == ["parameters"]
    assert not any(word in NOTEBOOK.read_text() for word in ("/root", "/home", "/work", "/tmp", "/Users"))


def test_no_cell_fails(executed):
    failed = {cell.id for cell in executed.cells for output in cell.get("outputs", []) if output.output_type == "error"}
    assert failed == {"refused"}


def test_the_decoders_pictures_lie_side_by_side(executed):
    for name, decoders, side in (("compare", 4, 128), ("published", 4, 96), ("heads", 5, 96)):
        (sheet,) = shown(cell(executed, name))
        assert sheet.shape[1] >= decoders * side and sheet.shape[0] > side and sheet.std() > 10, name
        assert len(passes(cell(executed, name))) == decoders
    assert len(shown(cell(executed, "trace"))) == 1


def test_the_exact_decoder_draws_the_picture_of_ar_in_fewer_passes(executed):
    lines = printed(cell(executed, "exact")).splitlines()
    assert lines[0] == "ssd-exact: 256 of 256 codes are those of ar"
    assert lines[1].startswith("ssd: ") and "256 of 256" not in lines[1]
    found = passes(cell(executed, "compare"))
    assert found["ar"] == 256 and found["ssd"] == 52 and found["ssd-wave"] == 32 and found["ssd-exact"] < 128


def test_a_larger_model_is_planned(executed):
    assert "fits" in printed(cell(executed, "plan"))


def test_heads_are_trained_and_draw(executed):
    train, heads = cell(executed, "train"), cell(executed, "heads")
    assert (Path(executed.metadata.folder) / "results" / "heads" / "export" / "heads.safetensors").is_file()
    (report,) = [output.data["text/markdown"] for output in train.outputs if "text/markdown" in output.get("data", {})]
    assert (
        "untrained" in report and "trained on 24 images" in report and "12 steps" in report and len(shown(train)) == 1
    )
    assert "ssd-wave" in printed(heads).splitlines()[0]
    assert passes(heads)["ar"] == 16 and passes(heads)["ssd"] == 1 + 2 + 3 * 3


def test_without_a_checkpoint_the_rest_is_skipped(executed):
    for name, words in (("published", "skipped"), ("train", "Nothing is trained"), ("heads", "no draft heads")):
        again = cell(executed, f"again-{name}")
        assert words in printed(again) and not shown(again)


# -- nothing is downloaded unasked


def test_a_checkpoint_is_downloaded_only_if_the_settings_say_so(executed):
    (error,) = [output for output in cell(executed, "refused").outputs if output.output_type == "error"]
    assert "tick DOWNLOAD" in error.evalue


@pytest.fixture
def install(monkeypatch, tmp_path):
    """install(driver, tpu, **settings) -> the commands that the cell runs on a machine with this driver or a TPU."""
    for folder in (tmp_path, tmp_path / "ssd_jax_checkout"):
        (folder / "ssd_jax").mkdir(parents=True)
        (folder / "sample.py").touch()
    source, ran = cell(read(), "install").source, []
    monkeypatch.chdir(tmp_path)

    def run(driver: str = "", tpu: bool = False, **given) -> list[list[str]]:
        def fake(command, **options):
            if command[0] != "nvidia-smi":
                ran.append(command)
            return subprocess.CompletedProcess(command, 0, stdout=f"{driver}\n")

        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if driver else None)
        monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/vfio/0"] if tpu and "vfio" in pattern else [])
        monkeypatch.setattr(subprocess, "run", fake)
        exec(source, dict(SOURCE="", INSTALL=True, DEVICE="auto") | given)
        return ran

    return run


@pytest.mark.parametrize(
    ("machine", "extras"),
    [
        (dict(), "train"),
        (dict(tpu=True), "train,tpu"),
        (dict(driver="580.65.06"), "train,gpu"),
        (dict(driver="550.54.15"), "train,gpu12"),
        (dict(driver="580.65.06", DEVICE="cpu"), "train"),
    ],
)
def test_the_extra_is_that_of_the_machine(install, machine, extras):
    (command,) = install(**machine)
    assert command == [sys.executable, "-m", "pip", "install", "--quiet", "-e", f".[{extras}]"]


def test_nothing_is_installed_or_cloned_unless_the_settings_say_so(install, tmp_path):
    assert install(INSTALL=False) == [] == install(INSTALL=False, SOURCE="https://example.org/ssd_jax.git")
    shutil.rmtree(tmp_path / "ssd_jax_checkout")
    with pytest.raises(FileNotFoundError, match="SOURCE"):
        install(INSTALL=False, SOURCE="https://example.org/ssd_jax.git")
    with pytest.raises(FileNotFoundError, match="SOURCE"):
        install(SOURCE="https://example.org/ssd_jax.git")
    assert install()[0][:2] == ["git", "clone"]


def test_packages_that_were_replaced_under_the_session_ask_for_a_restart(install, monkeypatch):
    monkeypatch.setattr(np, "__version__", "1.26.4")
    with pytest.raises(RuntimeError, match="numpy was replaced: choose Runtime > Restart session"):
        install()
