"""The bench: decoders by text, what an image's passes are made of, its tables, and one small run of everything."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from ssd_jax import AR, MTP, PRESETS, SSD, Group, Raster, UserError, Wave
from ssd_jax.bench import accelerator
from ssd_jax.bench.bench_report import table
from ssd_jax.bench.pass_pieces import Clock, Draft, Verify, composition
from ssd_jax.bench.plots import quality_against_passes
from ssd_jax.bench.speed import Part, agreement, measure_speed, part_of
from ssd_jax.cli import bench, entry
from ssd_jax.decode.cost import total
from ssd_jax.decode.names import parse_decoder, parse_decoders
from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.features import available
from ssd_jax.eval.gallery import Gallery
from ssd_jax.eval.likelihood import token_nll
from ssd_jax.pipeline.loading import load
from ssd_jax.plan.this_machine import RATES
from ssd_jax.sequence.layout import Grid

# -- decoders as text


@pytest.mark.parametrize(
    ("text", "decoder"),
    [
        ("ssd-exact", PRESETS["ssd-exact"]),
        ("AR()", AR()),
        ("SSD(rounds=0)", SSD(rounds=0)),
        ("MTP(drafts=3)", MTP(drafts=3)),
        ("SSD(rounds='auto')", SSD(rounds="auto")),
        (" Wave(down=2, right=0.5) ", Wave(down=2, right=0.5)),
        (
            "Raster(window=8, coupling='resample', acceptance='grouped', group=Group(size=3, delta=None))",
            Raster(window=8, coupling="resample", acceptance="grouped", group=Group(size=3, delta=None)),
        ),
    ],
)
def test_decoder_from_text(text, decoder):
    assert parse_decoder(text) == decoder


def test_commas_inside_parentheses_do_not_separate():
    found = parse_decoders("ar, SSD(rounds=0, rows=2),Raster(window=8,group=Group(size=3)) ,ssd")
    assert list(found) == ["ar", "SSD(rounds=0, rows=2)", "Raster(window=8,group=Group(size=3))", "ssd"]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "SSD(rounds=-1)",
        "SSD(1)",
        "SSD(turns=2)",
        "open('x')",
        "SSD(rounds=print('x'))",
        "SSD(",
        "Group()",
        "1(2)",
    ],
)
def test_bad_decoder_text_is_one_sentence(text, capsys):
    with pytest.raises(UserError) as caught:
        parse_decoder(text)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


# -- composition


@pytest.mark.parametrize("decoder", [SSD(), PRESETS["ssd2"], Wave(), SSD(rounds="auto"), AR(), Raster(8), MTP()])
def test_pieces_are_what_the_stretches_say(decoder):
    stretches = decoder.stretches(Grid(16, 16), 5)
    count = composition(stretches, prompt=32)
    passes = {piece: times for piece, times in count.items() if isinstance(piece, Verify)}
    assert sum(passes.values()) == total(stretches) and passes[Verify(32, 1)] == 1
    assert sum(count.values()) - sum(passes.values()) == sum(stretch.drafts for stretch in stretches)


def test_pieces_of_ssd():
    count = composition(SSD(rounds=1, rows=2).stretches(Grid(16, 16), 5), prompt=16)
    right, down = tuple((0, d) for d in range(1, 6)), ((1, 0), (2, 0))
    assert count[Draft(right, 1)] == 3 and count[Draft(down, 16)] == 8
    assert count[Verify(32, 32)] == count[Verify(32, 0)] == 8


def test_split_weights_pieces_by_how_often_they_run(headed):
    clock = Clock(headed)
    clock.seconds = lambda piece: 1.0 if isinstance(piece, Verify) else 0.1
    parts = clock.split(SSD(rounds=1), passes=11)  # 4 x 4, 2 heads: 1 + 2 * 2 + 3 * 2
    assert parts == pytest.approx({"verify": 1.0, "draft": 0.1 * 5 / 11})


# -- passes instead of images


@pytest.mark.parametrize(
    ("decoder", "passes", "part"),
    [
        (AR(), 10, Part(1, 10, 576)),  # behind the prefill
        (AR(), 10_000, Part(1, 575, 576)),
        (SSD(rounds=2), 1, Part(1 + 2 * 5, 3, 80)),  # behind row 0, whole rounds: two and a commit pass
        (SSD(rounds=2), 4, Part(11, 6, 80)),
        (Wave(), 8, Part(1, 8, 48)),
        (SSD(rounds="auto"), 8, Part(1 + 5 + 23, 8, None)),  # behind the most that row 0 can take
        (PRESETS["sjd"], 8, Part(1, 8, None)),  # how many there are depends on the image
        (Raster(window=64, drafter="above"), 100, Part(1, 100, None)),
        (MTP(), 8, Part(1, 8, None)),
    ],
)
def test_which_passes_are_timed(decoder, passes, part):
    assert part_of(decoder, Grid(24, 24), 5, passes) == part


@pytest.mark.parametrize("name", ["ar", "ssd", "jacobi-wave", "jacobi-above"])
def test_a_limit_stops_a_picture_and_changes_nothing_before(headed, name):
    whole, part = (headed.generate(["dog"], name, pixels=False, max_passes=limit) for limit in (None, 5))
    assert part.passes.tolist() == [5] and whole.passes[0] > 5
    done = (whole.trace <= 5) & (whole.trace > 0)
    if name != "ssd":  # whose tokens may change in the passes after
        assert (part.tokens[done] == whole.tokens[done]).all() and 0 < done.sum() < done.size
    assert (headed.generate(["dog"], name, pixels=False, max_passes=99).tokens == whole.tokens).all()


class Stopwatch:
    """A pipeline whose prefill takes 1 s, whose other passes take 0.1 s, and that draws nothing."""

    def __init__(self, pipe):
        self.config, self.head_counts = pipe.config, pipe.head_counts

    def generate(self, prompts, decoder, seed, pixels, max_passes):
        passes = min(max_passes, 16 if isinstance(decoder, AR) else 9)
        return SimpleNamespace(seconds=1 + 0.1 * (passes - 1), passes=np.array([passes]), tokens=np.zeros((1, 4, 4)))


def test_seconds_of_a_picture_from_some_of_its_passes(headed):
    decoders = {"ar": AR(), "jacobi-above": Raster(window=2, drafter="above")}
    some = measure_speed(Stopwatch(headed), decoders, ["dog"], 1, 1, passes=4)
    assert some["ar"].seconds.tolist() == [[pytest.approx(2.5)]] and some["ar"].extrapolated == 4
    assert some["ar"].passes.tolist() == [16] and some["ar"].seconds_per_pass == pytest.approx(2.5 / 16)
    adaptive = some["jacobi-above"]
    assert (adaptive.seconds, adaptive.passes, adaptive.tokens) == (None, None, None)
    assert adaptive.seconds_per_pass == pytest.approx(0.1) and adaptive.extrapolated == 4
    # An image that is finished first: as many as were made.
    more = measure_speed(Stopwatch(headed), decoders, ["dog"], 1, 1, passes=99)["jacobi-above"]
    assert more.seconds_per_pass == pytest.approx(0.1) and more.extrapolated == 8
    # Random weights: what has a known number of passes is drawn whole.
    noise = measure_speed(Stopwatch(headed), decoders, ["dog"], 1, 1, counts=False)
    assert noise["ar"].seconds.tolist() == [[pytest.approx(2.5)]] and not noise["ar"].extrapolated
    assert noise["jacobi-above"].seconds is None


# -- tables


def test_agreement():
    tokens = np.arange(8).reshape(2, 2, 2)
    other = tokens.copy()
    other[1, 0, 0] = 99
    assert agreement(tokens, other) == (7 / 8, 1 / 2)


def test_table_has_the_columns_that_were_measured():
    rows = {
        "ar": {"passes": 256.0, "passes range": (256, 256), "seconds per pass": 0.002},
        "ssd": {"passes": 46.0, "kid": Estimate(0.001, -0.001, 0.003), "nll difference": Estimate(1.5, np.nan, np.nan)},
    }
    lines = table(rows).splitlines()
    assert lines[0] == "| decoder | passes | min..max | ms / pass | NLL - ar | KID x 1000 |"
    assert lines[2] == "| ar | 256.0 | 256..256 | 2.00 |  |  |"
    assert lines[3] == "| ssd | 46.0 |  |  | +1.500 | 1.00 [-1.00, 3.00] |"


# -- the command


@pytest.fixture
def data(tmp_path):
    """Ten reference images in the format of ssd_jax.data.emoji."""
    folder = tmp_path / "data"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    names = ["red apple", "green apple", "dog", "cat", "heart", "thumbs up", "fire", "red heart", "apple", "green"]
    pictures = [
        dict(code=str(i), identity=str(i), style="twemoji", tone="", name=name, caption=name, split="train")
        for i, name in enumerate(names)
    ]
    (folder / "index.json").write_text(json.dumps({"styles": ["twemoji"], "size": 16, "pictures": pictures}))
    return folder


def run(monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["bench", *map(str, flags)])
    bench.main()


def test_small_run_of_everything(headed_folder, data, tmp_path, monkeypatch, capsys):
    """On ten prompts of the reference images, the last nine of which pass for fresh ones."""
    monkeypatch.setattr(bench, "TUNED", 1)
    out = tmp_path / "out"
    flags = [
        f"--weights={headed_folder}",
        "--decoders=jacobi-above,ssd-wave",
        "--seeds=1",
        "--repeats=1",
        f"--out={out}",
    ]
    run(
        monkeypatch,
        *flags,
        "--metrics=speed,quality",
        "--images=10",
        "--batch=4",
        f"--data={data}",
    )
    values = json.loads((out / "bench.json").read_text())
    rows = values["decoders"]
    assert list(rows) == ["ar", "jacobi-above", "ssd-wave"]
    assert [rows["ar"][key] for key in ("passes", "reduction", "speedup", "equal tokens")] == [16, 1, 1, 1]
    assert rows["ssd-wave"]["passes"] == 2 + 6
    assert rows["jacobi-above"]["equal pictures"] == 1
    for row in rows.values():
        assert row["verify"] > 0
        assert row["verify"] + row["draft"] + row["rest"] == pytest.approx(row["seconds per pass"])
    assert (rows["ar"]["draft"], rows["ssd-wave"]["draft"] > 0) == (0, True)
    # The image of `ar` has the likelihood and the distances of `ar`.
    assert rows["jacobi-above"]["nll difference"]["value"] == 0
    assert rows["ssd-wave"]["nll difference"]["value"] != 0
    assert list(values["seconds per pass by window"]) == ["1", "2", "4", "8", "16"]
    assert rows["ssd-wave"]["fresh nll difference"] != rows["ssd-wave"]["nll difference"]
    if available():
        assert rows["jacobi-above"]["kid"] == rows["ar"]["kid"] != rows["ssd-wave"]["kid"]
        assert all(0 <= row["r@1"]["value"] <= row["r@5"]["value"] <= 1 for row in rows.values())
    for name in ("window.png", "quality.png"):
        with Image.open(out / name) as image:
            image.verify()
    printed = capsys.readouterr().out
    assert re.search(r"^\| ssd-wave \|", printed, re.MULTILINE)
    assert table_of((out / "bench.md").read_text()) == table_of(printed)


def test_other_heads_and_paired_differences(headed_folder, tmp_path, monkeypatch, capsys):
    """The same heads under another name draw the same images; with one prompt there are no distances."""
    flags = [f"--weights={headed_folder}", f"--other_heads=twin={headed_folder}", "--metrics=quality", "--images=4"]
    flags += ["--prompt=dog", "--batch=4", "--against=ssd", f"--out={tmp_path}"]
    run(monkeypatch, *flags, "--decoders=ssd,ssd@twin,SSD(rounds=0)")
    rows = json.loads((tmp_path / "bench.json").read_text())["decoders"]
    assert rows["ssd@twin"] == rows["ssd"] and rows["ssd"]["nll against"]["value"] == 0
    plain, ssd, ar = rows["SSD(rounds=0)"], rows["ssd"], rows["ar"]
    assert plain["nll against"]["value"] == pytest.approx(plain["nll"]["value"] - ssd["nll"]["value"])
    assert ar["passes against"]["value"] == ar["passes"] - ssd["passes"]
    assert "kid" not in ssd and "which need 8 prompts at least" in capsys.readouterr().out


def changed_copy(folder: Path, copy: Path, name: str, tensor: str) -> Path:
    """The checkpoint without its heads, and with one tensor of a file doubled."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("heads.safetensors", "branch.safetensors"))
    tensors = load_file(copy / name)
    save_file({**tensors, tensor: 2 * tensors[tensor]}, copy / name)
    return copy


def test_another_models_images_are_judged_by_the_first(headed_folder, tmp_path, monkeypatch):
    other = changed_copy(headed_folder, tmp_path / "other", "model.safetensors", "final_norm.scale")
    flags = [f"--weights={headed_folder}", "--metrics=quality", "--images=4", "--prompt=dog", "--batch=4"]
    run(monkeypatch, *flags, f"--other_models=o={other}", "--decoders=ar,ar@o", f"--out={tmp_path}")
    rows = json.loads((tmp_path / "bench.json").read_text())["decoders"]
    assert rows["ar"]["lossless"] and not rows["ar@o"]["lossless"]  # it has another distribution
    pipe = load(headed_folder)
    codes = load(other, dtype=pipe.dtype).generate(["dog"] * 4, seed=[0, 1, 2, 3], pixels=False).tokens
    assert rows["ar@o"]["nll"]["value"] == pytest.approx(float(token_nll(pipe, ["dog"] * 4, codes, batch=4).mean()))
    tokenizer = next(name for name in load_file(headed_folder / "vq.safetensors") if name.endswith("scale"))
    with pytest.raises(UserError, match="--other_models=o have other codes than this checkpoint's"):
        strange = changed_copy(headed_folder, tmp_path / "strange", "vq.safetensors", tokenizer)
        run(monkeypatch, *flags, f"--other_models=o={strange}", "--decoders=ar@o", f"--out={tmp_path}")


def table_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("| decoder", "| ar", "| ssd"))]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--metrics=beauty", "Unknown metric 'beauty'"),
        ("--decoders=warp", "Unknown decoder 'warp'"),
        ("--seeds=0", "--seeds must be at least 1"),
        ("--images=2", "--images must be at least 3"),
        ("--decoders=ssd", "needs draft heads"),
        ("--heads=/nowhere", "does not exist"),
    ],
)
def test_bad_input(random_folder, monkeypatch, flag, message):
    with pytest.raises(UserError, match=message):
        run(monkeypatch, f"--weights={random_folder}", flag)


@pytest.mark.parametrize("flag", ["--decoders=ar,fast", "--seeds=0", "--weights=/nowhere"])
def test_mistakes_are_one_sentence_and_exit_code_2(headed_folder, monkeypatch, capsys, flag):
    monkeypatch.setattr("sys.argv", ["bench", f"--weights={headed_folder}", flag])
    with pytest.raises(SystemExit) as stop:
        entry.run(bench.main)
    stdout, stderr = capsys.readouterr()
    assert (stop.value.code, stdout) == (2, "")
    assert stderr.startswith("error: ") and stderr.count("\n") == 1


def test_random_weights_beside_transformers(tmp_path, monkeypatch, capsys):
    flags = ["--config=configs/janus_pro.py:tiny", "--weights=random", "--decoders=ssd,ssd-exact"]
    run(monkeypatch, *flags, "--seeds=1", "--repeats=1", "--baseline=transformers", f"--out={tmp_path}")
    values = json.loads((tmp_path / "bench.json").read_text())
    rows = values["decoders"]
    assert list(rows) == ["ar", "ssd", "ssd-exact", "transformers"]
    theirs = rows["transformers"]["seconds"]
    assert theirs > 0 and rows["transformers"]["passes"] == rows["ar"]["passes"] == 16
    for name in ("ar", "ssd"):
        assert rows[name]["of transformers"] == pytest.approx(rows[name]["seconds"] / theirs)
    assert rows["transformers"]["of transformers"] == 1
    assert rows["transformers"]["speedup"] == pytest.approx(rows["ar"]["seconds"] / theirs)
    # Of noise, passes that depend on the image mean nothing.
    assert "seconds" not in rows["ssd-exact"] and "passes" not in rows["ssd-exact"]
    assert rows["ssd-exact"]["seconds per pass"] and rows["ssd-exact"]["extrapolated"] > 0
    assert values["setup"]["model"] == "random-0" and all(values["setup"][name] > 0 for name in RATES)
    printed = capsys.readouterr().out
    assert "The weights are random: seconds are real, images are noise." in printed
    assert re.search(r"depends on the image, and of noise .* mean nothing: ssd-exact\.", printed)
    assert re.search(r"^transformers: JanusForConditionalGeneration.generate in its image mode", printed, re.MULTILINE)


def test_reckoned_seconds_have_a_mark():
    rows = {"ar": {"seconds": 2.5, "speedup": 1.0, "extrapolated": 4}, "ssd": {"seconds": 1.0, "extrapolated": 0}}
    assert table(rows).splitlines()[2:] == ["| ar | ~2.500 | ~1.00x |", "| ssd | 1.000 |  |"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--passes=0"], "--passes must be at least 1"),
        (["--baseline=torch"], "Unknown baseline 'torch'; choose transformers"),
        (["--baseline=transformers"], "no model of the family emoji"),
        (["--baseline=transformers", "--metrics=quality"], "--baseline belongs to the metric speed"),
        (["--passes=3", "--metrics=quality"], "--passes belongs to the metrics speed and throughput"),
        (["--weights=random", "--metrics=quality"], "no quality to measure"),
        (["--quantize=int4"], "Unknown quantize 'int4'; choose one of int8"),
        (["--other_heads=x=/nowhere"], "belong to the metric quality alone"),
        (["--other_heads=nowhere", "--metrics=quality"], "must be LABEL=DIR"),
        (["--other_models=nowhere", "--metrics=quality"], "--other_models must be LABEL=DIR"),
        (["--other_heads=x=a", "--other_models=x=b", "--metrics=quality"], "both have the label 'x'"),
        (
            ["--decoders=ssd@x", "--metrics=quality"],
            "asks for 'x', which neither --other_heads nor --other_models names",
        ),
        (["--against=ssd", "--decoders=ar", "--metrics=quality"], "--against=ssd is none of the decoders ar"),
        (["--metrics=numerics", "--dtype=float32"], "numerics goes by itself"),
        (["--accelerator", "--weights=random"], "--accelerator goes with .* alone, not with --weights"),
        (["--accelerator", "--mesh=model:2"], "alone, not with --mesh"),
        (["--baseline=transformers", "--weights=someone/model"], "needs --weights=random or a folder that is here"),
        (["--config=configs/emu3.py"], "comes without weights; .* or try its sizes with --weights=random"),
        (["--config=configs/nothing.py"], "Unknown config 'configs/nothing.py'; choose one of configs/emoji.py"),
    ],
)
def test_flags_that_make_no_sense_are_one_sentence(monkeypatch, tmp_path, flags, message):
    with pytest.raises(UserError, match=message) as caught:
        run(monkeypatch, *flags, f"--out={tmp_path / 'new'}")
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="plots need matplotlib")
def test_what_draws_nothing_here_is_in_no_plot_of_quality(tmp_path):
    row = {"passes": 4.0, "nll difference": Estimate(0.1, 0.0, 0.2), "equal pictures": 0.0, "lossless": False}
    quality_against_passes({"ssd": row, "transformers": {"seconds": 1.0, "passes": 16}}, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").is_file()


def test_numerics_of_one_model(headed_folder, tmp_path, monkeypatch):
    flags = [f"--weights={headed_folder}", "--metrics=numerics", "--images=4", "--batch=4", "--prompt=red apple"]
    run(monkeypatch, *flags, f"--out={tmp_path}")
    rows = json.loads((tmp_path / "bench.json").read_text())["decoders"]
    exact, half, int8 = rows.values()
    assert list(rows)[:2] == ["float32", "bfloat16"] and list(rows)[2].startswith("int8, ")
    assert exact["equal tokens"] == 1 and exact["cross nll difference"]["value"] == 0
    assert exact["cross nll"]["value"] == pytest.approx(exact["nll"]["value"], rel=1e-5)
    assert exact["bytes"] == 2 * half["bytes"] > 2 * int8["bytes"]
    assert 0 < abs(half["cross nll difference"]["value"]) < 0.1
    assert int8["equal tokens"] < 1


# -- accelerators


def test_the_runbook_says_what_it_left_out(tmp_path):
    specs = ["configs/janus_pro.py:tiny", "configs/emu3.py:tiny"]
    text = accelerator.run(entry.read_config, specs, 4, 0, tmp_path)
    left = json.loads((tmp_path / "accelerator.json").read_text())["left out"]
    assert left[0] == "janus_pro:tiny, bfloat16, plain attention: passes" and len(left) == 2 * 7 + 2
    assert text.splitlines()[-1] == f"Left out, because the time was up: {', '.join(left)}."


def test_a_step_of_the_runbook(tmp_path, monkeypatch):
    steps = list(accelerator._steps(entry.read_config("configs/janus_pro.py:tiny"), "configs/janus_pro.py:tiny", 4))
    monkeypatch.setattr(accelerator, "_steps", lambda *_: [steps[0], ("broken", lambda: load_heads())])

    def load_heads():
        raise UserError("There is none.")

    monkeypatch.setattr(accelerator, "agreements", lambda attention: {"ssd-exact": {"tokens as ar": 1.0}})
    text = accelerator.run(entry.read_config, ["emoji"], 4, 8, tmp_path)
    assert re.search(r"^\| W = 4 \| \d+\.\d{3} \| \d+\.\d{3} \|$", text, re.MULTILINE)
    assert "broken: failed, There is none." in text and "| ssd-exact | 1.000 |" in text
    assert (tmp_path / "accelerator.md").read_text() == text + "\n"


def test_data_that_is_none(headed_folder, tmp_path):
    with pytest.raises(UserError, match="reference images cannot be read"):
        Gallery.read(tmp_path)
