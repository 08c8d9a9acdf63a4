"""sample.py --image: a part of an image is kept; the sidecar says of which; odd files and flags are one sentence."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

SIZE = 16  # pixels of the small model's images


@pytest.fixture
def files(tmp_path):
    """An image, a mask of its lower half, and what is neither."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[SIZE // 2 :] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(pixels).resize((SIZE, 2 * SIZE)).save(tmp_path / "tall.png")
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def test_rows_that_are_kept_are_those_of_a_mask(headed_folder, files, command_line):
    flags = [f"--weights={headed_folder}", "--prompt=dog", "--num_images=2", f"--image={files / 'image.png'}"]
    pixels, records = {}, {}
    for name, flag in {"mask": f"--mask={files / 'mask.png'}", "rows": "--keep_rows=2"}.items():
        code, _, err = command_line(*flags, flag, f"--out={files / name}")
        assert code == 0, err
        pixels[name] = [np.asarray(Image.open(files / name / f"00{index}.png")) for index in range(2)]
        records[name] = json.loads((files / name / "images.json").read_text())["options"]
    np.testing.assert_array_equal(pixels["mask"], pixels["rows"])
    assert (pixels["mask"][0] != pixels["mask"][1]).any()
    digest = hashlib.sha256((files / "image.png").read_bytes()).hexdigest()
    assert records["rows"]["image"] == {"file": "image.png", "sha256": digest} and records["rows"]["keep_rows"] == 2
    assert records["mask"]["mask"]["file"] == "mask.png" and "keep_rows" not in records["mask"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mask=mask.png"], "give it with --image"),
        (["--keep_rows=1"], "give it with --image"),
        (["--image=image.png"], "needs either --mask or --keep_rows"),
        (["--image=image.png", "--keep_rows=1", "--mask=mask.png"], "needs either --mask or --keep_rows"),
        (["--image=image.png", "--keep_rows=0"], "--keep_rows must be from 1 to 3, not 0"),
        (["--image=image.png", "--keep_rows=4"], "--keep_rows must be from 1 to 3, not 4"),
        (["--image=tall.png", "--keep_rows=1"], "has 32 x 16 pixels, but 16 x 16 are drawn"),
        (["--image=text.png", "--keep_rows=1"], "text.png cannot be read: it is no PNG, JPEG or WEBP image"),
        (["--image=none.png", "--keep_rows=1"], "none.png cannot be read: No such file"),
        (["--image=.", "--keep_rows=1"], "cannot be read: it is not a regular file"),
        (["--image=image.png", "--keep_rows=1", "--out=."], "whose files are replaced; choose another --out"),
        (["--image=image.png", "--mask=out/mask.png"], "whose files are replaced; choose another --out"),
        (["--image=image.png", "--keep_rows=1", "--compare=ar"], "does not go together with --compare"),
        (["--image=image.png", "--keep_rows=1", "--plan"], "does not go together with --compare or --plan"),
    ],
)
def test_odd_flags_and_files_write_nothing(headed_folder, files, monkeypatch, command_line, flags, message):
    monkeypatch.chdir(files)
    code, _, err = command_line(f"--weights={headed_folder}", "--prompt=dog", "--out=out", *flags)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (files / "out").exists()
