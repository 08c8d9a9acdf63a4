"""sample.py --compare, --trace and --heads; which decoders a checkpoint can run."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import ssd_jax
from ssd_jax import PRESETS, SSD, UserError
from ssd_jax.cli import sample


def draw(monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["sample.py", *map(str, flags)])
    sample.main()


# -- draft heads


def test_a_checkpoint_with_heads_and_a_branch_runs_all_presets(headed, pipe):
    assert headed.decoders() == list(PRESETS)
    without = pipe.decoders()
    assert {"ar", "jacobi-match", "jacobi-above", "sjd"} <= set(without)
    assert not {"ssd", "ssd2", "ssd-wave", "ssd-exact", "mtp"} & set(without)


def test_heads_are_used_and_do_not_change_the_exact_picture(headed):
    ar, exact, wave = (headed.generate(["red apple"], decoder=name, seed=3) for name in ("ar", "ssd-exact", "ssd-wave"))
    np.testing.assert_array_equal(ar.tokens, exact.tokens)
    assert exact.passes[0] <= ar.passes[0]
    assert wave.passes[0] == 2 + 6
    assert wave.trace.max() == wave.passes[0]


def test_no_heads(pipe):
    with pytest.raises(UserError, match="needs draft heads.*jacobi-above") as caught:
        pipe.generate(["red apple"], decoder=SSD(rounds=0))
    assert "\n" not in str(caught.value)


def test_heads_from_elsewhere(random_folder, headed_folder, tmp_path):
    shutil.copy(headed_folder / "heads.safetensors", tmp_path)
    for source in (tmp_path, tmp_path / "heads.safetensors"):
        assert "ssd" in ssd_jax.load(random_folder, heads=source).decoders()
    with pytest.raises(UserError, match="does not exist"):
        ssd_jax.load(random_folder, heads=tmp_path / "absent")


def test_heads_of_another_backbone(random_folder, headed_folder, tmp_path):
    other = shutil.copytree(headed_folder, tmp_path / "other")
    heads = other / "heads.safetensors"
    heads.write_bytes(
        heads.read_bytes().replace(
            fingerprint := ssd_jax.load(random_folder).fingerprint().encode(), b"0" * len(fingerprint)
        )
    )
    with pytest.raises(UserError, match="another backbone"):
        ssd_jax.load(other)
    with pytest.raises(UserError, match="another backbone"):
        ssd_jax.load(random_folder, heads=other)


# -- the command


def test_compare_writes_rows_of_pictures(headed_folder, tmp_path, monkeypatch, capsys):
    decoded, decode = [], ssd_jax.Pipeline.decode
    monkeypatch.setattr(ssd_jax.Pipeline, "decode", lambda pipe, codes: decoded.append(codes) or decode(pipe, codes))
    flags = [f"--weights={headed_folder}", f"--out={tmp_path}", "--prompt=red apple", "--prompt=dog", "--num_images=2"]
    draw(monkeypatch, *flags, "--compare=ar,ssd-wave", "--trace")
    with Image.open(tmp_path / "compare.png") as sheet:
        assert sheet.height > 4 * 16
        assert sheet.width >= 2 * 16
    records = json.loads((tmp_path / "compare.json").read_text())["images"]
    assert len(records) == len(decoded) == 2 * 2 * 2  # the calls that only compile draw none
    assert {(r["decoder"], r["passes"]) for r in records} == {("ar", 16), ("ssd-wave", 8)}
    assert all(r["seconds"] > 0 for r in records)
    for name in ("ar", "ssd-wave"):
        for index in range(4):
            assert (tmp_path / f"{name}-{index:03d}-trace.png").is_file()
    with Image.open(tmp_path / "ar-003.gif") as animation:
        assert animation.n_frames == 16
    assert "compare.png" in capsys.readouterr().out


def test_compare_misses_the_image_tokenizer_before_it_compiles(random_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(random_folder, tmp_path / "folder")
    (folder / "vq.safetensors").unlink()
    monkeypatch.setattr(ssd_jax.Pipeline, "generate", lambda *arguments, **options: pytest.fail("it draws"))
    with pytest.raises(UserError, match=r"vq\.safetensors"):
        draw(monkeypatch, f"--weights={folder}", f"--out={tmp_path / 'out'}", "--prompt=dog", "--compare=ar")


def test_trace_beside_ordinary_pictures(headed_folder, tmp_path, monkeypatch):
    flags = [f"--weights={headed_folder}", f"--heads={headed_folder}", f"--out={tmp_path}", "--prompt=red apple"]
    draw(monkeypatch, *flags, "--decoder=ssd-wave", "--trace")
    assert {path.name for path in tmp_path.iterdir()} == {
        "000.png", "000-trace.png", "000.gif", "grid.png", "images.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "images.json").read_text())["options"]["decoder"] == "ssd-wave"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--compare=ar,warp", "Unknown decoder 'warp'"),
        ("--compare=", "names no decoder"),
        ("--compare=ar,ssd", "needs draft heads"),
        ("--decoder=SSD(rounds=-1)", "rounds must be"),
        (
            "--compare=ar,Raster(window=17,drafter='above')",
            "window of 17 is larger than the image, which has 16 tokens",
        ),
    ],
)
def test_bad_input_writes_nothing(random_folder, tmp_path, monkeypatch, flag, message):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        draw(monkeypatch, f"--weights={random_folder}", f"--out={out}", flag)
    assert not out.exists()
