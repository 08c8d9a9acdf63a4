"""The bench's baseline: the same family and sizes in transformers, random weights, timed in a process of its own."""

import dataclasses
import importlib
import inspect
import re

import numpy as np
import pytest
import torch

from ssd_jax.bench import baseline, transformers_models, transformers_process
from ssd_jax.bench.baseline import measure_baseline
from ssd_jax.bench.transformers_models import build
from ssd_jax.bench.transformers_process import SETTINGS, Drawing, measure
from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig

FAMILIES = {"emu3": "emu3", "emu3_5": "emu3_5", "chameleon": "lumina_mgpt", "janus": "janus_pro"}
ROW_ENDS = {"emu3": 4, "emu3_5": 4, "chameleon": 4, "janus": 0}
RUN = dict(prompt=6, cfg_scale=3.0, top_k=8, repeats=2, passes=None)


def tiny(family: str, **changes) -> ModelConfig:
    """The family's `:tiny` sizes with a grid of 4 x 4 codes."""
    config = importlib.import_module(f"configs.{FAMILIES[family]}").get_config("tiny").model
    return ModelConfig(**(config.to_dict() | dict(rows=4, cols=4) | changes))


def job(family: str, **changes) -> dict:
    return dict(RUN, dtype=None, cpu_dtype="bfloat16", model=dataclasses.asdict(tiny(family))) | changes


def drawing(family: str, dtype: torch.dtype = torch.float32, **changes) -> Drawing:
    torch.manual_seed(0)
    run = job(family, **changes)
    return Drawing(build(run["model"], torch.device("cpu"), dtype), run)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads make such small models slower, and much slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


# ---- what is reported


@pytest.mark.parametrize("scale", [3.0, 1.0])
def test_whole_pictures_are_timed(family, scale):
    out = measure(job(family, cfg_scale=scale))
    assert out["passes"] == 16 + ROW_ENDS[family]  # one per code and per row end, the prefill's included
    least, most = out["seconds range"]
    assert 0 < least <= out["seconds"] <= most
    assert out["seconds per pass"] == pytest.approx(out["seconds"] / out["passes"])
    assert out["extrapolated"] is False
    setting = r"(sdpa|eager) attention, (dynamic|static) cache, no torch.compile, bfloat16, CPU with \d+ threads"
    assert re.fullmatch(setting, out["setting"])
    assert out["versions"].startswith(f"torch {torch.__version__}, transformers ")


def test_some_passes_are_timed_and_extrapolated(family):
    out = measure(job(family, passes=3))
    assert out["extrapolated"] is True
    assert out["passes"] == 16 + ROW_ENDS[family]
    assert out["seconds"] > (out["passes"] - 1) * out["seconds per pass"]  # the prefill comes on top
    assert "from the prefill and 3 passes in the middle" in out["loop"]


def test_more_passes_than_a_picture_has_are_all_of_it():
    assert "15 passes in the middle" in measure(job("janus", passes=1000, repeats=1))["loop"]


def test_the_report_says_which_loop_was_timed():
    def loop(family, passes=None, **changes):
        return drawing(family, **changes).describe(passes)

    assert loop("janus").startswith(
        "JanusForConditionalGeneration.generate in its image mode, both guidance rows in one"
    )
    # transformers' own generate can neither start in the middle nor draw without guidance
    assert loop("janus", passes=3).startswith("A plain loop around JanusForConditionalGeneration's forward")
    assert loop("janus", cfg_scale=1.0).startswith("A plain loop around JanusForConditionalGeneration's forward")
    assert "without guidance; 4 x 4 codes, a pass each" in loop("janus", cfg_scale=1.0)
    for name in ("emu3", "chameleon"):
        assert "a head of all 364 ids" in loop(name)
        assert "4 x 4 codes and 4 forced row ends, a pass each" in loop(name)


# ---- the timed model is the one that transformers would build and run


def test_the_model_is_what_the_class_builds_by_itself(family):
    ours = drawing(family).model
    torch.manual_seed(1)
    theirs = transformers_models.FAMILIES[family](dataclasses.asdict(tiny(family))).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        expected, found = (model.get_decoder()(input_ids=ids).last_hidden_state for model in (theirs, ours))
    np.testing.assert_array_equal(found, expected)


def test_the_model_has_the_sizes_of_the_config(family):
    config = tiny(family)
    model = drawing(family, torch.bfloat16).model
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    frequencies = model.get_decoder().rotary_emb.inv_freq
    steps = torch.arange(0, config.head_dim, 2) / config.head_dim
    torch.testing.assert_close(frequencies, config.rope_theta**-steps)  # float32, whatever the weights are
    trunk = model.get_decoder()
    layer = config.width * (config.head_dim * (2 * config.heads + 2 * config.kv_heads) + 3 * config.mlp_width)
    weights = sum(tensor.numel() for name, tensor in trunk.layers.named_parameters() if name.endswith("proj.weight"))
    assert weights == config.layers * layer
    assert trunk.embed_tokens.weight.shape == model.lm_head.weight.shape == (config.vocab_size, config.width)


@pytest.mark.parametrize("setting", SETTINGS, ids="-".join)
def test_passes_with_a_cache_agree_with_one_wide_pass(family, setting):
    """So neither cache attends to places that are not filled, and positions go on."""
    timed = drawing(family)
    codes = family == "janus"
    timed.model.set_attn_implementation(setting[0])
    ids = torch.tensor([[5, 7, 9], [5, 3, 2]]) + (0 if codes else timed.sizes["visual_offset"])
    with torch.inference_mode():
        cache = timed.empty_cache(setting[1])
        one_by_one = [timed.logits(ids[:, [i]], cache, codes) for i in range(3)][-1]
        at_once = timed.logits(ids, timed.empty_cache("dynamic"), codes)
    np.testing.assert_allclose(one_by_one, at_once, atol=2e-5)


# ---- the passes of an image


def test_row_ends_are_forced_where_the_family_has_them(family):
    timed, fed = drawing(family), []
    logits = timed.logits
    timed.logits = lambda ids, *rest, **more: fed.append(ids.clone()) or logits(ids, *rest, **more)
    with torch.inference_mode():
        timed.loop(timed.prefill(cache := timed.empty_cache("dynamic")), cache, 1, timed.tokens - 1)
    prompt, *tokens = fed
    assert prompt.shape == (2, 6)
    tokens = torch.cat(tokens, dim=1)
    assert (tokens[0] == tokens[1]).all()  # both guidance rows see the same image
    size, first = timed.sizes["visual_size"], 0 if family == "janus" else timed.sizes["visual_offset"]
    ends = tokens[0] == timed.sizes["row_end_id"]
    is_code = (first <= tokens[0]) & (tokens[0] < first + size)
    if ROW_ENDS[family]:
        # The last token of an image, a row end, is not fed any more.
        assert ends.nonzero().flatten().tolist() == [4, 9, 14]
        assert is_code[~ends].all() and len(tokens[0]) == 19
    else:
        assert is_code.all() and len(tokens[0]) == 15


def test_janus_draws_whole_pictures_with_its_own_generate():
    with torch.inference_mode():
        for kind in ("dynamic", "static"):
            codes = drawing("janus").picture(cache := drawing("janus").empty_cache(kind))
            assert codes.shape == (1, 16) and 0 <= codes.min() and codes.max() < 64
            assert int(cache.get_seq_length()) == 6 + 15


def test_the_middle_of_a_picture_has_half_a_cache():
    timed, lengths = drawing("emu3"), []
    loop = timed.loop
    timed.loop = lambda code, cache, *rest: lengths.append(int(cache.get_seq_length())) or loop(code, cache, *rest)
    with torch.inference_mode():
        timed.middle(("sdpa", "static"), 5)
    # Tokens 8 to 12 of 0..19 are timed, token 7 is not. Token t comes from a pass behind the prompt's 6 and t - 1 more.
    assert lengths == [6 + 6, 6 + 7]


def test_guidance_and_top_k_choose_the_code():
    logits = torch.tensor([[0.0, 1.0, 2.0, -9.0], [0.0, 3.0, 1.0, -9.0]])  # guided by 3: 0, -3, 4, -9
    assert drawing("janus", top_k=1).draw(logits).item() == 2
    assert drawing("janus", top_k=1, cfg_scale=1.0).draw(logits[1:]).item() == 1
    assert {drawing("janus", top_k=2).draw(torch.zeros(2, 4)).shape for _ in range(2)} == {(1, 1)}


# ---- what the bench calls


def call(config: ModelConfig, **changes) -> dict:
    return measure_baseline(config, **(RUN | changes))


def test_a_process_of_its_own_gives_the_same_report(capfd):
    out = call(tiny("janus"), passes=2, repeats=1)
    assert set(out) == set(measure(job("janus", passes=2, repeats=1)))
    assert out["seconds range"] == (out["seconds"], out["seconds"])
    captured = capfd.readouterr()
    assert captured.out == "" and "transformers" in captured.err  # the progress


def test_the_bundled_family_has_no_baseline():
    with pytest.raises(UserError, match="no model of the family emoji"):
        call(ModelConfig(vocab_size=64, visual_offset=0, visual_size=64))


@pytest.mark.parametrize("changes", [dict(repeats=0), dict(passes=0), dict(prompt=0), dict(top_k=-1)])
def test_numbers_that_make_no_sense_are_refused(changes):
    with pytest.raises(UserError, match=f"{next(iter(changes))} must be a whole number"):
        call(tiny("janus"), **changes)


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(baseline, "PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match=r'no_such_package, which is not installed; pip install "ssd_jax\[baseline\]"'):
        call(tiny("janus"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('not enough memory')", "exit code 1; its last line was: RuntimeError: not enough memory"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9, probably because memory ran out"),
        ("from json import Emu3Config", r'other versions.*cannot import name .Emu3Config.*pip install "ssd_jax\[base'),
        ("import transformers; transformers.NoSuchModel", "other versions.*has no attribute NoSuchModel"),
    ],
    ids=["error", "killed", "import", "class"],
)
def test_a_process_that_dies_says_why(monkeypatch, tmp_path, source, message):
    (tmp_path / "dying.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(baseline, "MODULE", "dying")
    with pytest.raises(UserError, match=message) as caught:
        call(tiny("janus"))
    assert "\n" not in str(caught.value)


def test_the_process_itself_uses_nothing_of_jax():
    for module in (transformers_process, transformers_models):
        names = re.findall(r"^(?:import|from) ([\w.]+)", inspect.getsource(module), re.MULTILINE)
        assert not {name for name in names if name.startswith(("jax", "ssd_jax"))} - {transformers_models.__name__}
