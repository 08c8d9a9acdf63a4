"""From a text to the ids of its frame: words, unknown words, padding, and what is too long."""

import numpy as np
import pytest

from ssd_jax.backbones.emoji import MAX_WORDS
from ssd_jax.backbones.emoji import EmojiPrompts as Prompts
from ssd_jax.backbones.prompting import doubts
from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.prompts import SPECIALS, pad_left, read_tokenizer, word_tokenizer
from ssd_jax.sequence.dims import bucket
from ssd_jax.sequence.layout import Grid

CAPTIONS = ["red apple, twemoji", "red heart, noto", "piñata, noto", "woman's hat, noto", "t-rex, noto"]
CONFIG = ModelConfig(vocab_size=200, visual_offset=100, visual_size=64)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(CAPTIONS)


@pytest.fixture(scope="module")
def prompts(tokenizer) -> Prompts:
    return Prompts(tokenizer, CONFIG)


def test_special_tokens_come_first_then_the_most_frequent_words(tokenizer):
    assert [tokenizer.id_to_token(index) for index in range(6)] == [*SPECIALS, "noto", "red"]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_survive_the_way_to_ids_and_back(tokenizer, prompts, caption):
    frame = prompts.frame(caption)
    assert frame[0] == CONFIG.bos_id and frame[-1] == CONFIG.boi_id
    words = [tokenizer.id_to_token(index) for index in frame[1:-1]]
    assert words == prompts.words(caption)
    assert "<unk>" not in words


@pytest.mark.parametrize("text", ["Red Apple", "  red,apple!", "RED\tapple\n", "réd (apple)"])
def test_case_accents_and_punctuation_do_not_matter(prompts, text):
    assert prompts.frame(text) == prompts.frame("red apple")


def test_apostrophes_and_hyphens_belong_to_a_word(prompts):
    assert prompts.words("Woman\u2019s T-Rex") == ["womans", "t-rex"]


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer, prompts, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = Prompts(read_tokenizer(tmp_path), CONFIG)
    assert [again.frame(text) for text in CAPTIONS] == [prompts.frame(text) for text in CAPTIONS]


def test_unknown_words_get_their_own_id(prompts):
    assert prompts.unknown("red zeppelin, apple quux") == ["zeppelin", "quux"]
    frame = prompts.frame("red zeppelin apple")
    assert frame[2] == CONFIG.unk_id and CONFIG.unk_id not in (frame[1], frame[3])


def test_every_unknown_word_is_doubted_once(pipe):
    said = doubts(pipe.prompts, ["red zeppelin", "green zeppelin quux", "red apple"])
    assert [sentence.count("'") for sentence in said] == [2, 2]
    assert "zeppelin" in said[0] and "quux" in said[1]


def test_a_text_cannot_name_a_special_token(prompts):
    assert prompts.frame("<boi> <pad> <bos>")[1:-1] == [CONFIG.unk_id] * 3


def test_the_empty_prompt_is_the_unconditional_frame(prompts):
    assert prompts.frame("") == [CONFIG.bos_id, CONFIG.boi_id]


def test_the_longest_prompt(prompts):
    assert len(prompts.frame("red " * MAX_WORDS)) == MAX_WORDS + 2
    with pytest.raises(UserError, match=f"{MAX_WORDS + 1} words.*{MAX_WORDS}"):
        prompts.frame("red " * (MAX_WORDS + 1))


def test_buckets():
    assert [bucket(length) for length in (0, 1, 16, 17, 32, 33)] == [16, 16, 16, 32, 32, 48]


def test_frames_are_padded_on_the_left_to_a_bucket():
    ids, mask = pad_left([[2, 9, 3], [2, 3]], pad_id=0)
    np.testing.assert_array_equal(ids, [[0] * 13 + [2, 9, 3], [0] * 14 + [2, 3]])
    np.testing.assert_array_equal(mask, [[False] * 13 + [True] * 3, [False] * 14 + [True] * 2])
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert pad_left([[1] * 17], 0)[0].shape == (1, 32)
    assert pad_left([[1] * 3], 0, length=5)[0].shape == (1, 5)


def test_the_mask_not_the_id_says_what_is_padding():
    _, mask = pad_left([[0, 0, 3]], pad_id=0, length=4)
    np.testing.assert_array_equal(mask, [[False, True, True, True]])


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_bad_tokenizer_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_any_size_of_whole_tokens_can_be_drawn():
    assert Prompts.grid(CONFIG, "128x64", 8) == Prompts.grid(CONFIG, (128, 64), 8) == Grid(rows=16, cols=8)


@pytest.mark.parametrize("size", ["128x60", (4, 128), "16:9"])
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError, match="HEIGHTxWIDTH in multiples of 8 pixels"):
        Prompts.grid(CONFIG, size, 8)
