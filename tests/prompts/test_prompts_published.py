"""The published backbones' frames, id for id as their documentation has them, and the sizes they allow.

The tokenizers are made here: every byte is a token, and special tokens have their published ids.
"""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from byte_tokenizers import ALPHABET, BYTES, byte_tokenizer

from ssd_jax.backbones import BACKBONES
from ssd_jax.backbones.prompting import grid_of, read_prompts
from ssd_jax.errors import UserError
from ssd_jax.models.config import UNKNOWN, ModelConfig
from ssd_jax.prompts import pad_left
from ssd_jax.sequence.layout import Grid, Layout, prompt_starts, rotary_positions

SPECIAL = {
    "emu3": {"<|extra_203|>": 151849, "<|image start|>": 151852, "<|image token|>": 151851, "<|extra_200|>": 151846},
    "emu3_5": {
        "<|extra_203|>": 151849,
        "<|image start|>": 151852,
        "<|image token|>": 151851,
        "<|extra_100|>": 151746,
    },
    "chameleon": {
        "<s>": 0,
        "<reserved08706>": 8710,
        "<racm3:break>": 8197,
        **{f"<reserved{8800 + patches:05d}>": 8804 + patches for patches in range(1, 49)},
    },
    "janus": {"<｜begin▁of▁sentence｜>": 100000, "<｜▁pad▁｜>": 100015, "<begin_of_image>": 100016, "<|User|>": 100003},
}
CONFIGS = {
    "emu3": ModelConfig(184622, 151854, 32768, architecture="emu3", rows=90, cols=90, row_end_id=151846),
    "emu3_5": ModelConfig(282926, 151854, 131072, architecture="emu3_5", rows=64, cols=64, row_end_id=151846),
    "chameleon": ModelConfig(65536, 4, 8192, architecture="chameleon", rows=48, cols=48, row_end_id=8803),
    "janus": ModelConfig(102400, 0, 16384, code_width=8, architecture="janus", rows=24, cols=24),
}
STRIDE = {"emu3": 8, "emu3_5": 16, "chameleon": 16, "janus": 16}


def prompts(name: str, tokens=None, vocabulary=None, merges=(), special=None, **changes):
    config = dataclasses.replace(CONFIGS[name], **changes)
    return BACKBONES[name].prompts(
        byte_tokenizer(SPECIAL[name] if special is None else special, merges), config, vocabulary or {}, tokens or {}
    )


def spelt(text: str) -> list[int]:
    """Ids of ASCII text, byte by byte."""
    return [ALPHABET[letter] for letter in text.replace(" ", "Ġ").replace("\n", "Ċ")]


# -- Emu3


def test_emu3_frames():
    frame, negative = prompts("emu3").pair("a cat", None, Grid(90, 120))
    good = spelt("a cat masterpiece, film grained, best quality.")
    bad = spelt(
        "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst "
        "quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
    )
    assert frame == [151849, *good, 151852, *spelt("90*120"), 151851]
    assert negative == [151849, *bad, 151852, *spelt("90*120"), 151851]


def test_emu3_another_negative_prompt_stands_as_it_is():
    assert prompts("emu3").pair("a cat", "fog", Grid(90, 90))[1] == [
        151849,
        *spelt("fog"),
        151852,
        *spelt("90*90"),
        151851,
    ]
    assert prompts("emu3").pair("a cat", "", Grid(90, 90))[1] == [151849, 151852, *spelt("90*90"), 151851]


def test_emu3_row_ends_are_where_the_published_rule_has_them():
    """With offset = position - position of IMG: offset % (W + 1) == 0 is a row end."""
    _, row_end = Layout(Grid(3, 4), row_ends=True).sequence()
    assert row_end.tolist() == [offset % 5 == 0 for offset in range(1, 15)]


def test_emu3_text_is_cut_as_the_original_tokenizer_cuts_it():
    merges = [("1", "2"), ("(", "a"), ("Ã", "©")]
    ids = prompts("emu3", merges=merges).text
    digits, bracket, accent = (BYTES + 300 + index for index in range(3))
    assert ids("12") == spelt("12")  # every digit by itself; GPT-2 would cut "12"
    assert ids("(a") == [bracket]  # one sign may lead a word; GPT-2 would cut it off
    assert ids("e\u0301") == ids("\u00e9") == [accent]  # composed first
    assert byte_tokenizer({}, merges).encode("12(a").ids == [digits, *spelt("(a")]


# -- Emu3.5


def test_emu3_5_frames():
    frame, unconditional = prompts("emu3_5").pair("a {cat}", None, Grid(64, 48))
    image = [151852, *spelt("64*48"), 151851]
    asked = spelt("You are a helpful assistant for t2i task. USER: a {cat} ASSISTANT: ")
    assert frame == [151849, *asked, 151746, *image]
    assert unconditional == [151849, *spelt("You are a helpful assistant. USER:  ASSISTANT: "), 151746, *image]


def test_emu3_5_a_negative_prompt_stands_in_the_unconditional_frame():
    fog = spelt("You are a helpful assistant. USER: fog ASSISTANT: ")
    assert prompts("emu3_5").pair("a cat", "fog", Grid(64, 64))[1][1 : 1 + len(fog)] == fog


# -- Lumina-mGPT


def test_lumina_frames():
    request = "Generate an image of 1024x512 according to the following prompt:\na cat"  # width first
    frame, unconditional = prompts("chameleon").pair("a cat", None, Grid(32, 64))
    assert frame == [0, *spelt(request), 8710, 8197, 8804 + 16, 8804 + 32]  # height first
    assert unconditional == [8197, 8804 + 16, 8804 + 32]
    assert prompts("chameleon").pair("a cat", None, Grid(48, 48))[1] == [8197, 8828, 8828]


def test_lumina_a_negative_prompt_has_a_whole_frame():
    made = prompts("chameleon")
    assert made.pair("a cat", "fog", Grid(48, 48))[1] == made.pair("fog", None, Grid(48, 48))[0]


# -- Janus-Pro


def test_janus_frames():
    frame, unconditional = prompts("janus").pair(" a cat\n", None, Grid(24, 24))
    middle = [100003, *spelt(": a cat\n\n<|Assistant|>:")]  # here <|User|> happens to be one token
    assert frame == [100000, *middle, 100016]
    assert unconditional == [100000, *[100015] * len(middle), 100016]


def test_janus_an_empty_turn_has_no_separators():
    assert prompts("janus").pair("  ", None, Grid(24, 24))[0] == [100000, 100003, *spelt(":<|Assistant|>:"), 100016]


def test_janus_a_negative_prompt_has_a_whole_frame():
    made = prompts("janus")
    assert made.pair("a cat", "fog", Grid(24, 24))[1] == made.pair("fog", None, Grid(24, 24))[0]


# -- special ids


def test_ids_come_from_tokens_then_config_json_then_tokenizer_json_then_the_config(tmp_path):
    byte_tokenizer(SPECIAL["emu3"]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"vocabulary_map": {"<|image start|>": 5, "<|image token|>": 6}}))
    made = read_prompts(tmp_path, CONFIGS["emu3"], {"boi_id": 7})
    assert [made.id(key) for key in ("boi", "img", "bos")] == [7, 6, 151849]
    assert prompts("emu3", special={}, bos_id=9).id("bos") == 9


@pytest.mark.parametrize(("name", "key"), [("emu3", "img"), ("chameleon", "end"), ("chameleon", "size_48")])
def test_a_special_token_that_nothing_names_is_asked_for(name, key):
    with pytest.raises(UserError, match=rf"tokens=\{{'{key}': ...\}}"):
        prompts(name, special={}, bos_id=1, boi_id=2, tokens={} if key != "size_48" else {"end": 3}).pair(
            "", None, Grid(96, 96)
        )


def test_how_training_cut_and_filled_texts_is_left_out(tmp_path):
    made = byte_tokenizer(SPECIAL["chameleon"])
    made.enable_truncation(3)
    made.enable_padding(length=40)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    frames = read_prompts(tmp_path, CONFIGS["chameleon"]).pair("a cat", None, Grid(48, 48))
    assert frames == prompts("chameleon").pair("a cat", None, Grid(48, 48))


def test_an_unknown_pad_id_is_asked_for():
    with pytest.raises(UserError, match="'pad'"):
        prompts("janus", special={}, pad_id=UNKNOWN).pair("a cat", None, Grid(24, 24))


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(UserError, match="must be in 0..184621, not 184622"):
        prompts("emu3", {"boi": 184622}).id("boi")


@pytest.mark.parametrize(("name", "text"), [("emu3", "a <|image token|> b"), ("janus", "<begin_of_image>")])
def test_a_prompt_cannot_name_a_special_token(name, text):
    with pytest.raises(UserError, match="special token"):
        prompts(name).pair(text, None, Grid(24, 24))


def test_a_prompt_that_is_too_long_is_refused():
    with pytest.raises(UserError, match="513 tokens; at most 512"):
        prompts("janus").pair("a" * 513, None, Grid(24, 24))


# -- sizes


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("emu3", "1:1", (90, 90)),
        ("emu3", "16:9", (68, 120)),  # 67.5 rows
        ("emu3", "9:16", (120, 68)),
        ("emu3", "16:25", (112, 72)),  # 112.5 rows: half to even
        ("emu3", "4:3", (78, 104)),
        ("emu3", "512x512", (64, 64)),
        ("emu3", (544, 960), (68, 120)),
        # The published table (configs/example_config_t2i.py).
        ("emu3_5", "4:3", (55, 73)),
        ("emu3_5", "21:9", (41, 97)),
        ("emu3_5", "16:9", (47, 85)),
        ("emu3_5", "3:2", (52, 78)),
        ("emu3_5", "1:1", (64, 64)),
        ("emu3_5", "3:4", (73, 55)),
        ("emu3_5", "9:16", (85, 47)),
        ("emu3_5", "2:3", (78, 52)),
        ("emu3_5", "768x1024", (48, 64)),
        ("chameleon", "768x768", (48, 48)),
        ("chameleon", "512x1024", (32, 64)),
        ("chameleon", "384x1536", (24, 96)),
        ("chameleon", (32, 32), (2, 2)),
        ("janus", "384x384", (24, 24)),
    ],
)
def test_sizes(name, size, grid):
    found = grid_of(CONFIGS[name], size, STRIDE[name])
    assert (found.rows, found.cols) == grid


@pytest.mark.parametrize(
    ("name", "size", "allowed"),
    [
        ("emu3", "720x721", "multiples of 8 pixels"),
        ("emu3", "1024x1024", "259200 to 528768 pixels"),
        ("emu3", "256x256", "259200 to 528768 pixels"),
        ("emu3", "11:1", "at most 10:1"),
        ("emu3_5", "1024x1040", "524288 to 1048576 pixels"),
        ("emu3_5", "1000x1000", "multiples of 16 pixels"),
        ("emu3_5", "11:1", "at most 10:1"),
        ("chameleon", "760x768", "multiples of 32 pixels"),
        ("chameleon", "1024x1024", "at most 589824 pixels"),
        ("chameleon", "256x1088", "4 times"),
        ("chameleon", "16:9", "HEIGHTxWIDTH"),
        ("janus", "512x512", "384x384 pixels only"),
        ("janus", "1:1", "384x384 pixels only"),
        *((name, "large", "HEIGHTxWIDTH") for name in CONFIGS),
        *((name, size, "at least 1") for name in CONFIGS for size in ("0x8", (8, 8, 8))),
    ],
)
def test_other_sizes_are_refused_with_those_that_are_allowed(name, size, allowed):
    with pytest.raises(UserError, match=allowed):
        grid_of(CONFIGS[name], size, STRIDE[name])


def test_padding_does_not_move_the_shorter_frame():
    """Lumina's unconditional frame starts at rotary position 0, however long the prompt is."""
    ids, mask = pad_left(prompts("chameleon").pair("a cat", None, Grid(48, 48)), 0)
    slots = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    positions = np.asarray(rotary_positions(slots, prompt_starts(jnp.asarray(mask))))
    assert ids[1, -3:].tolist() == [8197, 8828, 8828] and positions[1, -3:].tolist() == [0, 1, 2]
