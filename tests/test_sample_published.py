"""sample.py with the configs of the published backbones, on folders of random weights: decoders, sizes, mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from test_prompts_published import byte_tokenizer

import sample
import ssd_jax
from ssd_jax import entry
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig, from_dict
from ssd_jax.models.heads import abstract_heads
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.weights.export import heads_metadata, write_config, write_tensors

CONFIGS = ("emu3", "lumina_mgpt", "janus_pro")
SPECIAL = {
    "emu3": {"<|extra_203|>": 1, "<|image start|>": 2, "<|extra_200|>": 3, "<|image token|>": 4},
    "lumina_mgpt": {"<s>": 0, "<racm3:break>": 69, "<reserved08799>": 70, "<reserved08706>": 71}
    | {f"<reserved{8800 + patches:05d}>": 74 + patches for patches in range(1, 5)},
    "janus_pro": {"<｜▁pad▁｜>": 0, "<｜begin▁of▁sentence｜>": 1, "<begin_of_image>": 2},
}
FIRST_BYTE = {"emu3": 10, "lumina_mgpt": 100, "janus_pro": 10}
HEADS = HeadsConfig(horizontal=2, vertical=2)
WITHOUT_HEADS = ["ar", "sjd", "scd", "scd-gumbel", "gsd", "jacobi-match", "jacobi-above"]
ROOT = Path(sample.__file__).parent


def config_of(name: str) -> ModelConfig:
    return from_dict(ModelConfig, sample.read_config(f"configs/{name}").model.to_dict(), name)


def drawn(shapes, seed: int):
    """Random values in the shapes of a model; scales of norms are near one."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: (leaf.ndim == 1) + 0.3 * rng.normal(size=leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: draw(leaf).astype(np.float32), nn.unbox(shapes))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of random weights for each backbone, in the sizes of its `:tiny`; Emu3's has draft heads."""
    made = {}
    for name in CONFIGS:
        folder = made[name] = tmp_path_factory.mktemp(name) / "checkpoint"
        config = config_of(f"{name}.py:tiny")
        sizes = dict(channels=4, multipliers=(1, 1, 1), groups=2, codebook_size=64, code_dim=4)
        vq = VQConfig(patch=2 if name == "emu3" else 4, **sizes)
        write_config(folder, config, vq)
        write_tensors(folder / "model.safetensors", drawn(abstract_backbone(config), 0), np.float32)
        write_tensors(folder / "vq.safetensors", drawn(abstract_vq(vq), 1), np.float32)
        byte_tokenizer(SPECIAL[name], first=FIRST_BYTE[name]).save(str(folder / "tokenizer.json"))
    folder, params = made["emu3"], drawn(abstract_heads(HEADS, 32), 2)
    write_tensors(folder / "heads.safetensors", params, np.float32, heads_metadata(HEADS, folder / "model.safetensors"))
    return made


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*arguments) -> (exit code, standard output, standard error)."""

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        try:
            entry.run(sample.main)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


@pytest.mark.parametrize("name", CONFIGS)
def test_every_decoder_draws(folders, tmp_path, name):
    decoders = list(ssd_jax.PRESETS) if name == "emu3" else WITHOUT_HEADS
    command = [f"--config=configs/{name}.py:tiny", f"--weights={folders[name]}", f"--out={tmp_path}"]
    command += [f"--compare={','.join(decoders)}", "--prompt=a red cat"]
    done = subprocess.run(
        [sys.executable, "sample.py", *command], cwd=ROOT, text=True, capture_output=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "compare.png").is_file(), done.stderr
    records = json.loads((tmp_path / "compare.json").read_text())["images"]
    passes = {record["decoder"]: record["passes"] for record in records}
    assert list(passes) == decoders
    config = config_of(f"{name}.py:tiny")
    R, C = config.rows, config.cols
    assert passes["ar"] == R * C and all(1 < passes[decoder] <= R * C for decoder in WITHOUT_HEADS)
    if name == "emu3":
        assert passes["ssd"] == 1 + 2 * -(-(C - 1) // HEADS.horizontal) + 3 * (R - 1)


@pytest.mark.parametrize(("name", "size", "shape"), [("emu3", "5:4", (32, 40)), ("lumina_mgpt", "32x64", (32, 64))])
def test_another_size(run, folders, tmp_path, name, size, shape):
    code, stdout, stderr = run(
        f"--config=configs/{name}.py:tiny", f"--weights={folders[name]}", f"--out={tmp_path}", f"--size={size}",
        "--negative_prompt=fog",
    )  # fmt: skip
    assert code == 0, stderr
    with Image.open(tmp_path / "000.png") as image:
        assert np.asarray(image).shape == (*shape, 3)
    assert json.loads((tmp_path / "images.json").read_text())["options"]["size"] == size


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("emu3", [], ["configs/emu3.py", "--weights"]),
        ("janus_pro", ["--weights=janus_pro", "--decoder=ssd"], ["draft heads", "jacobi-above", "scd"]),
        ("janus_pro", ["--weights=janus_pro", "--size=1:1"], ["64x64"]),
        ("lumina_mgpt", ["--weights=lumina_mgpt", "--size=1:1"], ["multiples of 32"]),
        ("janus_pro", ["--weights=emu3"], ["janus", "emu3"]),
        ("janus_pro:2b", [], ["'2b'", "1b"]),
    ],
)
def test_mistakes(run, folders, tmp_path, name, flags, words):
    flags = [
        flag.replace(flag[10:], str(folders[flag[10:]])) if flag.startswith("--weights=") else flag for flag in flags
    ]
    file, _, variant = name.partition(":")
    code, stdout, stderr = run(
        f"--config=configs/{file}.py{':' + variant if variant else ''}", f"--out={tmp_path}", *flags
    )
    assert code == 2 and stdout == "" and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr


@pytest.mark.parametrize(
    ("config", "published", "not_ours", "ours_only"),
    [
        # published parameters of the language model; rows of its text head, which we leave out; parts that we count too
        ("emu3.py", 8_492_011_520, (184622 - 32768) * 4096, 0),
        ("lumina_mgpt.py", 7_013_158_912, (65536 - 8192) * 4096, 32 * 2 * 2 * 31 * 128),  # q/k norms of every head
        ("janus_pro.py", 6_910_365_696, 102400 * 4096, 16384 * 8 + (8 + 1 + 4096 + 1) * 4096 + 4097 * (4096 + 16384)),
        (
            "janus_pro.py:1b",
            1_652_656_128,
            102400 * 2048,
            16384 * 8 + (8 + 1 + 2048 + 1) * 2048 + 2049 * (2048 + 16384),
        ),
    ],
)
def test_the_configs_describe_networks_of_the_published_size(config, published, not_ours, ours_only):
    leaves = jax.tree.leaves(abstract_backbone(config_of(config)))
    assert sum(leaf.size for leaf in leaves) == published - not_ours + ours_only
