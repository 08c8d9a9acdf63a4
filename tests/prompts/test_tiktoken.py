"""Emu3's first repository has its tokenizer in tiktoken's format: the same ids as tiktoken's rule gives."""

import base64
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from ssd_jax.backbones.emu_text import RANKS_NAME, SPECIAL_NAME, read_tiktoken
from ssd_jax.backbones.prompting import read_prompts
from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.sequence.layout import Grid

CODES = 64


def make_ranks(letters: bytes, count: int) -> dict[bytes, int]:
    """Every byte, then `count` tokens that join two earlier ones, as training makes them."""
    rng = random.Random(0)
    ranks, parts = {bytes([byte]): byte for byte in range(256)}, [bytes([byte]) for byte in letters]
    while len(ranks) < 256 + count:
        token = rng.choice(parts) + rng.choice(parts)
        if len(token) < 9 and token not in ranks:
            ranks[token] = len(ranks)
            parts.append(token)
    return ranks


def tiktoken_ids(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """Joins the neighbours whose union has the lowest rank, the first of them, until none is a token."""
    parts = [piece] if piece in ranks else [bytes([byte]) for byte in piece]
    while True:
        unions = [(ranks[a + b], at) for at, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ranks]
        if not unions:
            return [ranks[part] for part in parts]
        at = min(unions)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def write(folder: Path, ranks: dict[bytes, int]) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / RANKS_NAME).write_text("".join(lines))
    visual = "\n".join(f"<|visual token {code:06d}|>" for code in range(CODES))
    (folder / SPECIAL_NAME).write_text(f"<|image token|>\n<|image start|>\n<|image end|>\n{visual}\n")
    return folder


@pytest.mark.parametrize("letters", ["ab", "abcde .", "é漢 a"])
def test_ids_are_those_of_tiktoken(tmp_path, letters):
    ranks = make_ranks(letters.encode(), 300)
    tokenizer = read_tiktoken(write(tmp_path, ranks))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rng = random.Random(1)
    for _ in range(200):
        text = "".join(rng.choices(letters, k=rng.randint(1, 30)))
        assert tokenizer.encode(text).ids == tiktoken_ids(ranks, text.encode()), text


def test_ids_are_those_of_a_converted_tokenizer(tmp_path):
    """The converted repository's tokenizer.json has one pair of parts for every token: those that training joined."""
    text = (
        "a lighthouse on a rocky coast at dusk, the light of the house and the coast, rock and light, a dusk at the sea"
    )
    trained, level = Tokenizer(models.BPE(ignore_merges=True)), pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.pre_tokenizer = level
    alphabet = level.alphabet()
    trained.train_from_iterator([text] * 4, BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    byte = {level.pre_tokenize_str(chr(code))[0][0]: bytes([code]) for code in range(128)}
    byte |= {letter: bytes([128 + index]) for index, letter in enumerate(sorted(set(alphabet) - set(byte)))}
    spelt = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokenizer = read_tiktoken(write(tmp_path, {b"".join(byte[x] for x in token): rank for token, rank in spelt}))
    tokenizer.pre_tokenizer = level
    words = text.split()
    for first in words:
        for second in words:
            assert tokenizer.encode(f"{first} {second}{first}").ids == trained.encode(f"{first} {second}{first}").ids


def test_the_frame_of_a_folder_without_tokenizer_json(tmp_path):
    ranks = make_ranks(b"catdog", 200)
    first = len(ranks)  # of the special tokens: end of text, two of chats, <|extra_0|>
    start = first + 3 + 205  # <|image token|>
    config = ModelConfig(start + 3 + CODES, start + 3, CODES, architecture="emu3", row_end_id=first + 203)
    (write(tmp_path, ranks) / "config.json").write_text("{}")
    frame, _ = read_prompts(tmp_path, config).pair("cat dog", None, Grid(9, 16))
    pieces = ["cat", " dog", " masterpiece", ",", " film", " grained", ",", " best", " quality", "."]
    text = [index for piece in pieces for index in tiktoken_ids(ranks, piece.encode())]
    assert frame == [first + 3 + 203, *text, start + 1, *b"9*16", start]


def no_special(folder: Path) -> None:
    (folder / SPECIAL_NAME).unlink()


def rewrite(text: str):
    return lambda folder: (folder / RANKS_NAME).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_special, "emu3_vision_tokens.txt, which belongs to emu3.tiktoken, cannot be read"),
        (rewrite("hello world"), "not a tiktoken file"),
        (rewrite("YQ== 0 1"), "not a tiktoken file"),
        (rewrite("YQ== 0\nYg== 2"), "ranks 0, 1, ... once each"),
        (rewrite("YQ== 0\nYg== 1"), "every byte as a token"),
        (lambda folder: (folder / RANKS_NAME).unlink(), "has neither tokenizer.json nor emu3.tiktoken"),
    ],
)
def test_damage(tmp_path, damage, words):
    damage(write(tmp_path, make_ranks(b"ab", 10)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=words) as error:
        read_prompts(tmp_path, ModelConfig(600, 500, 64, architecture="emu3"))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
