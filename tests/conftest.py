"""Fixtures of all tests: jax options, models small enough to compile in a second."""

import gc
import json
import os
import shutil
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

# Entry points that tests start in processes of their own share one compilation cache, which keeps small programs, too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"ssd_jax_tests_{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is the compiler's, at work on programs that run once. Without XLA's newer emitters of fusions
# it takes two thirds of that; later versions have no such flag, and end a process that sets it. Tests that read HLO
# compile with them (`hlo.optimised`).
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

import jax
import jax.numpy as jnp
import pytest
from toy import random_backbone, random_vq, small_config

from ssd_jax.cli import entry
from ssd_jax.models.branch import init_branch
from ssd_jax.models.config import BranchConfig, HeadsConfig, VQConfig
from ssd_jax.models.draft_heads import DraftHeads, init_heads
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.pipeline.loading import load
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.prompts import word_tokenizer
from ssd_jax.weights.export import write_config, write_tensors
from ssd_jax.weights.load import read_config
from ssd_jax.weights.part_file import BRANCH_FILE, HEADS_FILE
from ssd_jax.weights.tensors import read_tensors

ROOT = Path(__file__).parents[1]
from ssd_jax.cli import sample  # noqa: E402

# In this process nothing is kept: with hundreds of programs alive, writing one more to disk has aborted the process.
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_legacy_prng_key", "error")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    """Options of tests/fuzz."""
    parser.addoption("--fuzz_cases", type=int, default=30, help="odd inputs of every kind (default 30)")
    parser.addoption("--fuzz_seed", type=int, default=0, help="other seeds, other inputs (default 0)")
    parser.addoption("--fuzz_only", type=int, help="the seed of a single case")


def pytest_terminal_summary(terminalreporter):
    """Says how many images the exactness tests excused by a near-tie, and what became of odd inputs."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    recorded = [item for report in reports for item in report.user_properties]
    compared, excused = (sum(count for key, count in recorded if key == name) for name in ("compared", "excused"))
    if compared:
        terminalreporter.write_line(f"exactness: {excused} of {compared} pictures excused by a near-tie")
    odd = {name: sum(count for key, count in recorded if key == name) for name in ("refused", "same", "ran", "failed")}
    if any(odd.values()):
        counts = ", ".join(f"{count} {name}" for name, count in odd.items())
        terminalreporter.write_line(f"fuzz: {sum(odd.values())} odd inputs: {counts}")


def pytest_collection_finish(session):
    """What is imported stays, so the garbage collector need not look at it; and tracing creates many objects that are
    not garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """Compiled programs are dropped before they exhaust a process's mappings, of which Linux allows 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


# -- models with random weights (toy.py): not trained, but nothing about them is symmetric or zero


@pytest.fixture(scope="session")
def backbone():
    """backbone(**changes) -> (config, params) of a small random backbone."""

    def make(**changes):
        config = small_config(**changes)
        return config, random_backbone(config)

    return make


WORDS = "red green apple heart dog cat fire thumbs up dark skin tone"


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory) -> Path:
    """A checkpoint folder with random weights: a grid of 4 x 4, 64 codes, images of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    tokenizer = word_tokenizer([WORDS])
    words = tokenizer.get_vocab_size()
    config = small_config(vocab_size=words + 64, visual_offset=words, visual_size=64, rows=4, cols=4, layers=1)
    vq = VQConfig(channels=8, multipliers=(1, 2), patch=2, groups=4, codebook_size=64, code_dim=4)
    write_config(folder, config, vq)
    write_tensors(folder / "model.safetensors", random_backbone(config), jnp.float32)
    write_tensors(folder / "vq.safetensors", random_vq(vq), jnp.float32)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def folder(random_folder, tmp_path) -> Path:
    """A copy of `random_folder` to damage."""
    return Path(shutil.copytree(random_folder, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def headed_folder(random_folder, tmp_path_factory) -> Path:
    """`random_folder` with draft heads, two to the right and two down, and a branch of a layer; none is trained."""
    folder = Path(shutil.copytree(random_folder, tmp_path_factory.mktemp("headed") / "checkpoint"))
    config, heads = read_config(folder)[0], HeadsConfig(horizontal=2, vertical=2)
    params = init_heads(DraftHeads(heads, config.width), jax.random.key(0))
    metadata = HEADS_FILE.metadata(heads, folder / "model.safetensors")
    write_tensors(folder / "heads.safetensors", params, jnp.float32, metadata)
    backbone = read_tensors(folder / "model.safetensors", abstract_backbone(config), jnp.float32)
    params = init_branch(config, BranchConfig(1), backbone, jax.random.key(1))
    metadata = BRANCH_FILE.metadata(BranchConfig(1), folder / "model.safetensors")
    write_tensors(folder / "branch.safetensors", params, jnp.float32, metadata)
    return folder


@pytest.fixture(scope="session")
def headed(headed_folder) -> Pipeline:
    """The model of `headed_folder`."""
    return load(headed_folder, dtype=jnp.float32)


@pytest.fixture(scope="session")
def pipe(random_folder) -> Pipeline:
    """The model of `random_folder`."""
    return load(random_folder, dtype=jnp.float32)


@pytest.fixture
def run_command(monkeypatch, capsys):
    """run_command(main, name, *arguments), in this process -> (exit code, standard output, standard error)."""

    def run(main, name, *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            entry.run(main)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def command_line(run_command):
    """command_line(*arguments) of sample.py, as `run_command`."""
    return partial(run_command, sample.main, "sample.py")


@pytest.fixture
def standard_promotion():
    """For steps of a training in this process: optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# -- what comes with the project


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The committed files of the tests (made by fixtures/make.py)."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def heldout(fixtures) -> dict[str, list]:
    """Captions, splits and codes of the held-out images beside it."""
    return json.loads((fixtures / "heldout.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def bundled() -> Pipeline:
    """The model that comes with the package."""
    return load("emoji", dtype=jnp.float32)
