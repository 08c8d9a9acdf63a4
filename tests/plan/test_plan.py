"""--plan: bytes by arithmetic are those of compiled programs, seconds are those one gets with pencil and paper."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT
from toy import small_config

from ssd_jax.cli.entry import read_config
from ssd_jax.decode.cost import total
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import Raster
from ssd_jax.errors import UserError
from ssd_jax.models.config import BranchConfig, HeadsConfig, VQConfig
from ssd_jax.parallel.mesh import device_bytes
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.plan import this_machine
from ssd_jax.plan.attention import attention, scores
from ssd_jax.plan.chips import CHIPS, chip_of
from ssd_jax.plan.job import Job, count, job_for
from ssd_jax.plan.memory import Scratch, compiled, memory, smallest_mesh
from ssd_jax.plan.rendering import decoder_lines, render
from ssd_jax.plan.roofline import seconds, together
from ssd_jax.plan.speed import draft, picture, twice, verify
from ssd_jax.sequence.layout import Grid

CHIP = {chip.name: chip for chip in CHIPS}
BLOCK = 4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336  # numbers in the matrices of a block of Emu3
NONE = Scratch(0, 0)


def published(name: str, mesh: str = "", images: int = 1, **changes) -> Job:
    config = read_config(name)
    return dataclasses.replace(job_for(find_models(config, name), mesh, None, images, None), **changes)


def small_job(**changes) -> Job:
    config = small_config(row_end_id=4)
    vq = VQConfig(channels=8, multipliers=(1, 2), patch=2, groups=4, codebook_size=32, code_dim=4)
    return Job(**{**dict(config=config, heads=HeadsConfig(2, 2, 1), vq=vq, grid=Grid(3, 4), prompt=16), **changes})


# -- bytes


def test_emu3_by_hand():
    """The output head has the visual rows only; keys and values are 131072 bytes a token and row."""
    job = published("emu3")
    assert count(job.backbone()) == 8_492_011_520 - (184622 - 32768) * 4096
    slots = 128 + 90 * 90 + 89
    assert device_bytes(job.cache()) == 2 * slots * 131072
    assert count(job.drafters()) == 7 * (5 * 4096**2 + 4096)


@pytest.mark.parametrize("name, parts", [("emu3", 8), ("emu3_5", 8), ("lumina_mgpt", 32), ("janus_pro", 4)])
def test_parts_on_all_devices_make_the_whole(name, parts):
    """All matrices are split; norms, and the tables of codes, are whole everywhere and few."""
    one, split = published(name), published(name, f"model:{parts}")
    whole, part = (device_bytes(job.backbone()) for job in (one, split))
    assert whole / parts <= part < 1.002 * whole / parts
    assert device_bytes(split.cache()) * parts == device_bytes(one.cache())
    assert count(one.backbone()) == count(split.backbone())


def test_fewer_key_value_heads_than_devices_are_whole_on_each():
    one, split = published("emu3"), published("emu3", "model:16")
    assert device_bytes(split.cache()) == device_bytes(one.cache())
    keys_and_values = 32 * 2 * 4096 * 1024 * 2
    others = device_bytes(one.backbone()) - keys_and_values
    assert device_bytes(split.backbone()) == pytest.approx(others / 16 + keys_and_values, rel=1e-3)


def test_rows_go_over_data():
    one, split = published("emu3", images=2), published("emu3", "data:2,model:2", images=2)
    assert device_bytes(split.cache()) * 4 == device_bytes(one.cache())
    assert published("emu3", "data:4").images == 2  # made to fill the mesh


@pytest.mark.parametrize("name", ["ssd", "flash"])
def test_arguments_of_the_compiled_program_are_the_bytes_by_arithmetic(name):
    job, decoder = small_job(branch=BranchConfig(1)), PRESETS[name]
    found = compiled(job, decoder).memory_analysis()
    expected = memory(job, decoder, NONE)
    prompts = job.rows * job.prompt * (4 + 1)
    key_and_sampler = 8 + 4 * 4
    assert found.argument_size_in_bytes == expected.exact - expected.tokenizer + prompts + key_and_sampler
    assert found.alias_size_in_bytes >= expected.cache


def test_most_is_needed_while_decoding_or_while_drawing_pixels():
    job = published("janus_pro")
    found = memory(job, PRESETS["ar"], Scratch(temporaries=5, pixels=3))
    assert found.heads == 0 and found.total == found.exact + 5
    large = dataclasses.replace(found, pixels=found.cache + 105)
    assert large.total == found.exact + 105


def test_the_smallest_mesh_that_fits():
    """15.7 GB of weights and more: not one chip of 16 GB, but two; half the heads of 32 do not fit in 0.4 GB."""
    job = published("emu3")
    v5e = CHIP["v5e"]
    assert memory(job, PRESETS["ar"], NONE).total > v5e.memory
    assert smallest_mesh(job, PRESETS["ar"], NONE, v5e) == 2
    assert smallest_mesh(job, PRESETS["ar"], NONE, dataclasses.replace(v5e, memory=9e9)) == 4
    assert smallest_mesh(job, PRESETS["ar"], NONE, dataclasses.replace(v5e, memory=0.4e9)) is None


# -- seconds


@pytest.mark.parametrize(
    "chip, milliseconds",
    [("H200", 3.50), ("H100", 5.02), ("A100-80", 8.25), ("v5p", 6.08), ("v6e", 10.26), ("v5e", 20.5)],
)
def test_a_pass_of_ar_is_one_read_of_weights_and_cache(chip, milliseconds):
    """Emu3: 13.96 GB of blocks, 0.27 of visual rows, 2.18 of keys and values; 0.41 for the scores of two slots."""
    assert seconds(verify(published("emu3"), 1, 1), CHIP[chip]) * 1e3 == pytest.approx(milliseconds, rel=0.01)


def test_what_plain_attention_moves_by_hand():
    """Emu3, a row of 90 tokens and its end, twice for guidance: keys and values of 8317 slots are 131072 bytes each;
    12 bytes a score; queries in bfloat16, the result in float32."""
    slots, T = 2 * 91, 8317
    found = attention(published("emu3"), 91)
    scores_moved = slots * 32 * 32 * T * 12
    assert scores_moved == pytest.approx(18.6e9, rel=1e-3)
    assert found.attended == 2 * T * 131072 + slots * 131072 + scores_moved + slots * 32 * 32 * 128 * (2 + 4)
    assert found.unfused == 0 and found.flops == 4 * slots * T * 32 * 32 * 128
    assert scores(published("emu3"), 364) == 4 * scores_moved  # four rows: 74 GB
    assert scores(published("emu3", dtype=jnp.dtype(jnp.float32)), 91) == scores_moved / 12 * 16


def test_fused_attention_keeps_scores_on_chips_with_cudnn():
    slots, T = 2 * 91, 8317
    job = published("emu3", attention="fused")
    found = attention(job, 91)
    assert found.attended == 2 * T * 131072 + slots * 131072 + slots * 32 * 32 * 128 * (2 + 2)
    assert found.unfused == scores(job, 91) == slots * 32 * 32 * T * 12
    assert [chip.name for chip in CHIPS if chip.cudnn] == ["H100", "H200", "A100-80"]
    for chip in CHIPS:
        moved = found.attended + (0 if chip.cudnn else found.unfused)
        assert found.seconds(chip) == pytest.approx(max(moved / chip.bandwidth, found.flops / chip.flops))
    wide = attention(published("emu3", attention="fused", dtype=jnp.dtype(jnp.float32)), 91)
    assert wide.unfused == 0 and wide.attended > scores(job, 91)  # cuDNN takes 16 bits only


def test_a_row_end_is_fed_in_every_pass_of_ar():
    """Its slot is there whether a row ends or not: 1.2 % of what plain attention moves, nothing else."""
    job = published("emu3")
    assert (job.fed(1), job.fed(90), job.fed(91), job.fed(360)) == (2, 91, 93, 364)
    assert published("janus_pro").fed(1) == 1
    one = together(verify(job, 1, 1)).all_moved(cudnn=True)
    none = dataclasses.replace(job, config=dataclasses.replace(job.config, row_end_id=-1))
    assert 0.011 < 1 - together(verify(none, 1, 1)).all_moved(cudnn=True) / one < 0.014
    assert small_job(grid=Grid(1, 4)).fed(4) == 4  # the last row has no end


def test_a_wide_pass_is_arithmetic_and_scores():
    """Four rows of Emu3: 364 slots with row ends, twice; products wait for arithmetic, attention for memory, the output
    head sees the visual tokens alone."""
    job, chip = published("emu3"), CHIP["H200"]
    slots = 2 * (360 + 4)
    products, attending = 2 * slots * 32 * BLOCK, attention(job, 364)
    output = 2 * 2 * 360 * 4096 * 32768
    assert together(verify(job, 360, 360)).flops == pytest.approx(products + attending.flops + output, rel=1e-4)
    by_hand = products / 989e12 + attending.attended / 4.8e12 + output / 989e12
    assert seconds(verify(job, 360, 360), chip) == pytest.approx(by_hand, rel=1e-4)
    assert seconds(verify(job, 360, 0), chip) == pytest.approx(by_hand - output / 989e12, rel=1e-4)


def test_where_a_pass_takes_twice_as_long():
    """By a search, and by trying every window; without scores it is the ridge that limits a window."""
    chip = CHIP["H200"]
    for job in (published("emu3"), published("emu3", attention="fused"), published("janus_pro")):
        one = seconds(verify(job, 1, 1), chip)
        found = twice(job, chip)
        assert seconds(verify(job, found, found), chip) >= 2 * one > seconds(verify(job, found - 1, found - 1), chip)
    assert twice(published("emu3"), chip) < twice(published("emu3", attention="fused"), chip)
    memory_alone = dataclasses.replace(chip, flops=math.inf)
    assert twice(published("janus_pro", attention="fused"), memory_alone) is None


def test_eight_devices_share_the_work_and_sum_twice_a_layer():
    one, eight = (together(verify(published("emu3", mesh), 90, 0)) for mesh in ("", "model:8"))
    assert one.sent == 0
    for here, there in ((eight.all_moved(True), one.all_moved(True)), (eight.flops, one.flops)):
        assert here == pytest.approx(there / 8, rel=1e-3)
    assert eight.sent == pytest.approx(2 * 7 / 8 * 64 * 2 * 91 * 4096 * 4)
    logits = together(verify(published("emu3", "model:8"), 90, 90)).sent - eight.sent
    assert logits == pytest.approx(7 / 8 * 2 * 90 * 32768 * 4)


def test_a_draft_reads_the_heads_it_calls():
    job = published("emu3")
    head, output = 5 * 4096**2 * 2, 4096 * 32768 * 2
    assert together(draft(job, 0, 1, 90)).moved == pytest.approx(head + output, rel=1e-4)
    assert together(draft(job, 5, 0, 1)).moved == pytest.approx(5 * head + output, rel=1e-4)
    context = 5 * 2 * 4096 * 1024 * 2 + 5 * 1024 * 4096 * 2
    wide = dataclasses.replace(job, heads=HeadsConfig(5, 2, context=2))
    assert together(draft(wide, 0, 1, 90)).moved == pytest.approx(head + context + output, rel=1e-4)


@pytest.mark.parametrize(
    "name, decoder, expected",
    [
        ("emu3", "ar", 28.4),
        ("emu3", "ssd", 2.09),
        ("janus_pro", "ar", 1.56),
        ("janus_pro", "ssd", 0.222),
        ("janus_pro", "ssd-wave", 0.149),
    ],
)
def test_seconds_of_a_picture_on_an_h200(name, decoder, expected):
    """Passes times milliseconds: of Emu3 3.5, over a row 7.3, of which 3.9 are for scores; of Janus-Pro 2.7 to 3."""
    job = published(name)
    assert picture(job, PRESETS[decoder].stretches(job.grid, 5), CHIP["H200"]) == pytest.approx(expected, rel=0.03)


def test_a_batch_reads_the_weights_once_for_all_pictures():
    one, four = published("janus_pro"), published("janus_pro", images=4)
    ar = PRESETS["ar"].stretches(one.grid)
    assert picture(four, ar, CHIP["H200"]) < 0.35 * picture(one, ar, CHIP["H200"])


def test_passes_that_depend_on_the_picture_are_a_range():
    job = published("janus_pro")
    table = {row.name: row for row in decoder_lines(dataclasses.replace(job, branch=BranchConfig(4)), PRESETS)}
    assert table["ssd"].passes == (80, 80) and table["ar"].passes == (576, 576)
    assert table["ssd-exact"].passes == (1 + 9, 576 // 3)  # 575 tokens in windows of 64; a third is an assumption
    for row in table.values():
        assert all(least <= most for least, most in row.seconds)
    few = decoder_lines(dataclasses.replace(job, heads=HeadsConfig(1, 0)), PRESETS)
    assert [row.name for row in few] == [name for name in PRESETS if PRESETS[name].heads <= (1, 0) and name != "flash"]
    assert table["flash"].passes == (47, 47)
    assert [row.name for row in decoder_lines(job, PRESETS)] == [name for name in PRESETS if name != "flash"]


def test_a_branch_costs_its_layers_and_its_output_head():
    """A pass over few tokens is bound by reading the weights: 4 of 30 layers and a second output head are read more."""
    job, chip = dataclasses.replace(published("janus_pro"), branch=BranchConfig(4)), CHIP["H200"]
    stretches = PRESETS["flash"].stretches(job.grid, 0)
    plain = tuple(each._replace(branch=0) for each in stretches)
    more = picture(job, stretches, chip) - picture(job, plain, chip)
    assert more == pytest.approx(46 * device_bytes(job.below()) / chip.bandwidth, rel=0.1)  # and attention
    found, without = memory(job, PRESETS["flash"], NONE), memory(job, PRESETS["ar"], NONE)
    assert found.branch == device_bytes(job.below()) and without.branch == 0
    assert found.cache == without.cache * 34 // 30
    assert "vertical branch" in render(job, {"flash": PRESETS["flash"]}, NONE)
    assert "vertical branch" not in render(job, {"ar": PRESETS["ar"]}, NONE)


def test_a_verdict_for_every_chip():
    """1 GB of temporaries beside 15.74 of weights, 1.08 of the image tokenizer and 2.18 of cache."""
    text = render(published("emu3"), {"ar": PRESETS["ar"]}, Scratch(10**9, 0)).splitlines()
    verdicts = {line.split()[0]: line for line in text if " fit " in line or " fits " in line}
    assert verdicts.keys() == CHIP.keys()
    assert "does not fit in 16 GB: at most 20.00 GB, 19.00 GB without temporaries" in verdicts["v5e"]
    assert verdicts["v5e"].endswith("--mesh=model:2 would: 11.04 GB")
    assert "fits in 80 GB: at most 20.00 GB; fastest where passes are known: ssd, " in verdicts["H100"]


def test_int8_halves_the_matrices_of_blocks_and_heads():
    job, int8 = published("emu3"), published("emu3", quantize="int8")
    blocks, heads = 32 * BLOCK, 7 * 5 * 4096**2
    scales = 4 * 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    assert device_bytes(job.backbone()) - device_bytes(int8.backbone()) == blocks - scales
    assert device_bytes(job.drafters()) - device_bytes(int8.drafters()) == heads - 7 * 4 * 4 * 4096
    assert count(job.backbone()) == count(int8.backbone())
    # A pass of one token reads the bytes; one of many rows computes, at twice the rate.
    one, wide = (together(verify(job, window, window)) for window in (1, 1024))
    assert one.moved - together(verify(int8, 1, 1)).moved == blocks - scales
    assert wide.flops - together(verify(int8, 1024, 1024)).flops == pytest.approx(2 * job.fed(1024) * blocks)


def test_an_8b_model_in_int8_fits_a_chip_of_16_gb():
    """Temporaries as they are compiled: see docs/big-models.md."""
    job = published("emu3", quantize="int8")
    found = memory(job, PRESETS["ssd"], Scratch(970_000_000, 3_850_000_000))
    assert found.total < CHIP["v5e"].memory < memory(published("emu3"), PRESETS["ssd"], NONE).total


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("NVIDIA H100 PCIe", None),
        ("cpu", None),
    ],
)
def test_a_device_is_known_by_its_kind(kind, name):
    assert chip_of(kind) == CHIP.get(name)


# -- this machine


def test_rates_of_this_machine_by_hand(monkeypatch):
    """Two layers of 32 x 48: two pairs of matrices; two rows, then as many as all of a 3 x 4 grid has with its ends."""
    asked = []
    monkeypatch.setattr(this_machine, "products_seconds", lambda pairs, rows: asked.append(rows) or rows / 32)
    monkeypatch.setattr(this_machine, "attention_seconds", lambda job, layers: asked.append(layers) or 0.25)
    job = small_job(dtype=jnp.dtype(jnp.bfloat16))
    chip = this_machine.measure(job)
    assert asked == [2 * (1 + 1), 2 * (12 + 2), 2]
    assert chip.bandwidth == 2 * 2 * 32 * 48 * 2 / (4 / 32)
    assert chip.flops == 24 * 2 * 2 * 2 * 32 * 48 / (24 / 32)  # of the rows beyond the first four
    assert chip.wide == 28 * 2 * 2 * 2 * 32 * 48 / (28 / 32)
    assert chip.attention == attention(job, 2).attended / 0.25
    int8 = this_machine.measure(dataclasses.replace(job, quantize="int8"))
    assert int8.bandwidth == 2 * (2 * 32 * 48 + 4 * (32 + 48)) / (4 / 32) and int8.flops == chip.flops / 2
    assert chip.memory > 0 and not chip.cudnn and not chip.overlaps
    written = this_machine.record(chip)
    assert list(written) == list(this_machine.RATES) and written["GFLOP/s of a wide product"] == chip.wide / 1e9
    again = this_machine.recorded(json.loads(json.dumps(written)))
    assert seconds(verify(job, 4, 4), again) == pytest.approx(seconds(verify(job, 4, 4), chip))


@pytest.mark.parametrize(
    ("times", "narrow", "longer"),
    [
        ((4, 3, 2, 2.1, 1, 3), 1, 1.1),  # wide is shorter, then longer by less than a tenth, then longer
        ((4, 3, 2, 4), 2, 1),  # the second time it is enough: the shortest of both count
    ],
)
def test_products_whose_difference_is_noise_are_timed_again(monkeypatch, times, narrow, longer):
    """In turn those of few rows and of many; a rate of further rows comes from a difference that can be trusted."""
    left = list(times)
    monkeypatch.setattr(this_machine, "products_seconds", lambda pairs, rows: left.pop(0))
    monkeypatch.setattr(this_machine, "attention_seconds", lambda job, layers: 1.0)
    chip = this_machine.measure(small_job())
    assert not left and chip.bandwidth == 2 * 2 * 32 * 48 * 2 / narrow
    assert chip.flops == pytest.approx(24 * 2 * 2 * 2 * 32 * 48 / longer)


def test_wide_products_that_take_no_longer_have_their_plain_rate(monkeypatch):
    """By a clock on which every run takes a second: no further row takes any time, and none has a rate of its own."""
    ticks, timed, time_products = itertools.count(), [], this_machine.products_seconds
    monkeypatch.setattr(this_machine, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(
        this_machine, "products_seconds", lambda pairs, rows: timed.append(rows) or time_products(pairs, rows)
    )
    chip = this_machine.measure(small_job())
    assert timed == [4, 28] * this_machine.TRIES
    assert chip.flops == chip.wide == 28 * 2 * 2 * 2 * 32 * 48 / 1


@pytest.mark.parametrize("name", ["ar", "ssd", "ssd-wave"])
@pytest.mark.parametrize("processor", ["epyc", "xeon"])
def test_plan_and_bench_agree(name, processor, fixtures):
    """Within 1.5, at Janus-Pro-1B's sizes. The files are from runs on two cores of an AMD EPYC (Zen 5) and of an Intel
    Xeon with AMX; their command is in them. To remake one run that, with nothing else running, and copy the bench.json
    that it writes."""
    bench = json.loads((fixtures / f"bench_janus_pro_1b_{processor}.json").read_text())
    setup, measured = bench["setup"], bench["decoders"][name]
    dtype = jnp.dtype(setup["dtype"])
    job = published("configs/janus_pro.py:1b", dtype=dtype, attention=setup["attention"], prompt=16, here=True)
    stretches = PRESETS[name].stretches(job.grid, job.heads.horizontal)
    assert (total(stretches), setup["grid"]) == (measured["passes"], "24 x 24")
    ratio = picture(job, stretches, this_machine.recorded(setup)) / measured["seconds"]
    assert 1 / 1.5 < ratio < 1.5, f"{name}: planned {ratio:.2f} times what was measured"


def test_rates_of_this_machine_are_measured():
    """Both kinds of attention, float32 and int8 matrices: rates that a machine can have."""
    for changes in ({"attention": "fused", "dtype": jnp.dtype(jnp.float32)}, {"quantize": "int8"}):
        chip = this_machine.measure(small_job(**changes))
        assert all(1e3 < rate < 1e15 for rate in (chip.bandwidth, chip.attention, chip.wide))
        assert 1e3 < chip.flops <= 20 * chip.wide


# -- which model


def test_a_checkpoint_folder_goes_before_the_config(headed_folder):
    config = read_config("emoji")
    found = find_models(config, "emoji", str(headed_folder))
    assert (found.backbone.rows, found.heads, found.tokenizer.channels) == (4, HeadsConfig(2, 2), 8)
    planned = find_models(config, "emoji", "emoji").heads
    assert planned.context == config.heads_model.context
    with pytest.raises(UserError, match="no checkpoint folder 'BAAI/Emu3-Gen'.*nothing is downloaded"):
        find_models(config, "emoji", "BAAI/Emu3-Gen")


def test_impossible_jobs_are_refused():
    with pytest.raises(UserError, match="model:3 does not divide the 32 heads; it can be 1, 2, 4"):
        published("emu3", "model:3")
    with pytest.raises(UserError, match="larger than the image"):
        compiled(small_job(), Raster(window=13, drafter="above"))
    with pytest.raises(UserError, match="needs draft heads"):
        compiled(small_job(heads=HeadsConfig(1, 0)), PRESETS["ssd"])


# -- sample.py


def test_the_command_line_plans_without_weights(command_line, monkeypatch):
    monkeypatch.setattr("ssd_jax.pipeline.opening.load", lambda *_, **__: pytest.fail("a plan loads nothing"))
    code, out, err = command_line("--plan", "--config=configs/janus_pro.py:tiny", "--cfg_scale=1", "--decoder=ar")
    assert code == 0 and err.splitlines() == ["compiling ar for 1 simulated device ..."]
    assert "1 row, 128 slots" in out and "compiled for CPUs in float32" in out and "an assumption" in out
    for chip in CHIPS:
        assert any(line.startswith(f"{chip.name} ") and " fits in " in line for line in out.splitlines())
    assert "by datasheet rates" in out and "plain: its scores are arrays, 12 bytes each" in out
    code, _, err = command_line("--plan", "--config=configs/janus_pro.py:tiny", "--attention=fused", "--mesh=model:2")
    assert code == 2 and "The fused attention runs on one device" in err
    code, _, err = command_line("--plan", "--config=configs/janus_pro.py:tiny", "--mesh=model:3")
    assert code == 2 and err.startswith("error: model:3 does not divide the 4 heads")


@pytest.mark.parametrize(
    "flag",
    ["--num_images=0", "--num_images=1000000000", "--seed=-1", "--temperature=nan", "--temperature=-1", "--top_k=-1",
     "--top_p=2", "--cfg_scale=nan", "--max_batch=0", "--size=99992x99992"],
)  # fmt: skip
def test_a_plan_refuses_what_drawing_would(command_line, flag, random_folder):
    flags = f"--weights={random_folder}", "--prompt=red apple", flag
    planned, drawn = command_line("--plan", *flags), command_line(*flags)
    assert planned[::2] == drawn[::2] and planned[:2] == (2, "")


def test_the_command_line_plans_for_this_machine(command_line):
    """A measured column instead of the chips', with the windows that decoders have on this machine."""
    flags = "--plan=here", "--config=configs/janus_pro.py:tiny", "--decoder=ar", "--attention=fused"
    code, out, _ = command_line(*flags)
    assert code == 0 and "by rates measured here" in out and "the sum of moving its bytes" in out.replace("\n", " ")
    assert "fused: with cuDNN its scores stay on the chip" in out
    assert [line.split()[0] for line in out.splitlines() if " fits in " in line] == ["here"]
    assert not any(chip.name in out for chip in CHIPS)
    assert all(name in " ".join(out.split()) for name in this_machine.RATES)
    code, _, err = command_line("--plan=here", "--config=configs/janus_pro.py:tiny", "--mesh=model:2")
    assert code == 2 and "leave --mesh out" in err


def test_where_free_memory_is_not_known_the_plan_says_so(monkeypatch):
    """Instead of a verdict; nothing is infinite in what is printed."""
    monkeypatch.setattr(this_machine, "free_bytes", lambda: None)
    monkeypatch.setattr(this_machine, "products_seconds", lambda pairs, rows: rows / 32)
    monkeypatch.setattr(this_machine, "attention_seconds", lambda job, layers: 0.25)
    job = small_job(here=True)
    text = render(job, {"ar": PRESETS["ar"]}, NONE, (this_machine.measure(job),))
    verdict = next(line for line in text.splitlines() if line.startswith("here "))
    assert "free memory is not known; needed: at most " in verdict and "; fastest where passes are known: " in verdict
    assert "inf" not in text and "fits in" not in text


def test_windows_are_those_of_where_the_plan_is_for():
    there, here = small_job(), small_job(here=True)
    decoder = PRESETS["jacobi-above"]
    assert there.as_run(decoder).window == 64 and here.as_run(decoder) is decoder


SCRIPT = """
import json, sys
from ssd_jax.cli import sample
from ssd_jax.cli import entry
from ssd_jax.plan import memory

programs, compile = [], memory.compiled
memory.compiled = lambda *arguments: programs.append(compile(*arguments)) or programs[-1]
sys.argv = ["sample.py", "--plan", "--config=configs/emu3.py", "--mesh=model:8"]
entry.run(sample.main)
found = programs[0].memory_analysis()
print(json.dumps([found.argument_size_in_bytes, found.alias_size_in_bytes]))
"""


def test_emu3_compiles_for_eight_devices_from_shapes_alone():
    """The whole program of `ssd`, with its passes over a row, in a process that never held a gigabyte of it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    *text, last = done.stdout.splitlines()
    job = published("emu3", "model:8")
    found = memory(job, PRESETS["ssd"], NONE)
    assert found.weights + found.cache < 2.25e9 < 16e9
    arguments, aliased = json.loads(last)
    inputs = 2 * 128 * (4 + 1) + 8 + 4 * 4
    assert arguments == 2 * (found.weights + found.cache + found.heads) + inputs  # the program is in float32
    assert aliased >= 2 * found.cache
    words = {" ".join(line.split()[:-2]): line.split()[-2:] for line in text}
    assert words["weights"] == ["1.97", "GB"] and words["draft heads"] == ["0.15", "GB"]
    assert any(line.startswith("v5e") and " fits in 16 GB: at most" in line for line in text)


def test_shapes_are_enough():
    """Nothing in a job is an array."""
    job = small_job(dtype=jnp.float32)
    leaves = jax.tree.leaves((job.backbone(), job.drafters(), job.tokenizer(), job.cache()))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
