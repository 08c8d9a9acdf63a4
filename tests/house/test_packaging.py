"""The wheel holds the code and the bundled checkpoints, no pickle, and works installed, away from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from conftest import ROOT

ASSETS = "ssd_jax/assets/"
MAX_ASSET_BYTES = 60_000_000
MAY_HOLD_PICKLE = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz", ".joblib"}


def run(*args, **kwargs) -> str:
    """Runs `python *args`; fails the test with the command's own output."""
    done = subprocess.run([sys.executable, *map(str, args)], text=True, capture_output=True, timeout=600, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # Built from a copy: a stale build/ in the checkout must not lend its files to the wheel, nor be left behind.
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "ssd_jax", source / "ssd_jax", ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", out, source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sizes(wheel) -> dict[str, int]:
    """File name in the wheel -> bytes, uncompressed."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_wheel_holds_every_module_and_the_licences(sizes):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ssd_jax").rglob("*.py")}
    assert modules <= set(sizes), "a folder without __init__.py?"
    for name in ("LICENSE", "NOTICE"):
        assert any(".dist-info/" in file and file.endswith("/" + name) for file in sizes), name
    assert all(name.startswith(("ssd_jax/", "ssd_jax-")) for name in sizes)


def test_wheel_holds_the_bundled_checkpoints(sizes):
    assets = {name: size for name, size in sizes.items() if name.startswith(ASSETS)}
    for folder in ("emoji/", "emoji-flash/"):
        for name in ("config.json", "tokenizer.json", "model.safetensors", "vq.safetensors", "branch.safetensors"):
            assert ASSETS + folder + name in assets
    assert ASSETS + "emoji/heads-published.safetensors" in assets
    on_disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / ASSETS).rglob("*") if path.is_file()}
    assert on_disk == set(assets)
    assert sum(assets.values()) <= MAX_ASSET_BYTES


def test_wheel_holds_no_pickle(sizes):
    assert [name for name in sizes if PurePosixPath(name).suffix in MAY_HOLD_PICKLE] == []


def test_installed_wheel_loads_the_bundled_checkpoint(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    code = "import ssd_jax; ssd_jax.load('emoji'); print(ssd_jax.__file__)"
    env = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    imported = Path(run("-c", code, cwd=elsewhere, env=env).splitlines()[-1])
    assert imported.resolve() == (site / "ssd_jax" / "__init__.py").resolve()
    assert list(elsewhere.iterdir()) == []
    # The commands do what the scripts of a checkout do, with the configs of the package.
    for command in ("ssd-sample", "ssd-train", "ssd-bench"):
        assert "--config" in run(site / "bin" / command, "--help", cwd=elsewhere, env=env)
    planned = run(site / "bin" / "ssd-sample", "--plan", "--config=configs/janus_pro.py:tiny", cwd=elsewhere, env=env)
    assert "by datasheet rates" in planned and list(elsewhere.iterdir()) == []
    unready = [sys.executable, str(site / "bin" / "ssd-train"), "--config=configs/emu3.py:tiny"]
    done = subprocess.run(unready, text=True, capture_output=True, cwd=elsewhere, env=env)
    assert (done.returncode, done.stderr.startswith("error: No weights come with this config")) == (2, True)
