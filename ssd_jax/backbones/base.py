"""What loading, prompts, weights, plans and configs ask of a backbone: a `Backbone`, of which every room here has one.

A room is the one file that knows a model by its name; the rest of the library finds it in the table of
`ssd_jax.backbones`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from ssd_jax.models.config import ModelConfig
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig
from ssd_jax.sequence.layout import Grid


@dataclasses.dataclass(frozen=True)
class Token:
    """A special token.

    Attributes:
        name: in the vocabulary, by which its id is found first.
        key: of config.json, where its id may stand, too; "" for none. If neither tells, it is the published id, that of
            the field `<key in Published.tokens>_id` of `Published.model`.
    """

    name: str
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Naming:
    """One way to name the tensors of a backbone.

    Attributes:
        trunk: what stands before `embed_tokens`, `layers` and `norm`.
        rest: our other parameters -> tensor.
    """

    trunk: str
    rest: Mapping[str, str]

    @property
    def embedding(self) -> str:
        """The embedding table's name, by which the naming is recognised."""
        return f"{self.trunk}embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class ConfigJson:
    """How a published config.json is recognised, and what is peculiar to reading it.

    Attributes:
        kinds: what it says under `model_type`, or in `architectures`.
        codes: (config.json, vocabulary, token -> id) -> fields of `ModelConfig` that describe the visual codes.
        sections: the sections that may hold the language model; without any, it is the top level.
        missing: field -> what a missing size means where that is not the published model's; None for `kv_heads` is as
            many as heads. A missing `head_dim` is always width / heads.
        unused: keys that may say anything, because what they are about is not used.
    """

    kinds: tuple[str, ...]
    codes: Callable[[Mapping, Mapping[str, int]], dict[str, Any]]
    sections: tuple[str, ...] = ()
    missing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class PublishedVQ:
    """The image tokenizer of a published model: what it is, how config.json describes it, how its tensors are named.

    Attributes:
        config: the published one. A config.json leaves out what is equal to it.
        attention_levels: (section of config.json, number of levels) -> `LevelsConfig.attention_levels`.
        keys: keys of that section beside those of all models (`hf_vq.FIELDS`) -> our field.
        sections: where it may stand in config.json, as the keys that lead there.
        prefixes: what stands before its tensors' names inside a whole model; nothing in a file of its own.
        rules: (pattern, replacement) in order, that make names those of VQGAN's first code (see `weights.vq_names`).
        lowest_first: the decoder's levels are counted from the lowest resolution.
    """

    config: VQGANConfig | MoVQConfig
    attention_levels: Callable[[Mapping, int], tuple[int, ...]]
    keys: Mapping[str, str]
    sections: tuple[tuple[str, ...], ...] = (("vq_config",),)
    prefixes: tuple[str, ...] = ("model.vqmodel.", "vqmodel.")
    rules: tuple[tuple[str, str], ...] = ()
    lowest_first: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The files of a tokenizer that is no tokenizer.json.

    Attributes:
        names: in the checkpoint's folder; the first one shows that they are there.
        read: folder -> tokenizer; raises `UserError` if a file is missing or malformed.
    """

    names: tuple[str, ...]
    read: Callable[[Path], Tokenizer]


class Prompts(Protocol):
    """From texts to ids, as the backbone was trained on them, and from sizes to grids.

    A class is called with a tokenizer and the backbone's `ModelConfig`, that of a published model also with the
    `vocabulary_map` of config.json, token -> id, and ids of special tokens by key, which go before all names.
    """

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """Ids of the prompt's frame, and of the frame that guidance leads away from; `negative` None is the backbone's
        own. Raises `UserError` for a prompt that it cannot take."""

    def words(self, text: str) -> list[str]:
        """What it reads of a text."""

    def unknown(self, text: str) -> list[str]:
        """What of that it never saw."""

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The token grid of a picture size, (height, width) in pixels or text; `stride` is pixels per token. Raises
        `UserError` for sizes that the backbone does not draw."""


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known of a model that others published in a format of theirs.

    Attributes:
        model: the model: sizes, special ids, default grid, guidance scale and top-k. A missing key of config.json
            means these, unless `config_json` says otherwise.
        config_json: how its config.json is read.
        tokens: key -> special token. A key `x` with a field `x_id` in `ModelConfig` is the model's, others are those
            that prompts alone need.
        vq: its image tokenizer.
        namings: the ways in which its tensors are named: transformers' first.
        tokenizer: its tokenizer's files where they are others than tokenizer.json, in one of its repositories.
        numbered: keys of families of special tokens that prompts alone need: "size" is size_1, size_2, ...
        unused: a pattern of the names of tensors that drawing does not need, beside those of the image tokenizer.
        safetensors: which repositories have it as safetensors, if its first one has pickles alone; in words.
    """

    model: ModelConfig
    config_json: ConfigJson
    tokens: Mapping[str, Token]
    vq: PublishedVQ
    namings: tuple[Naming, ...]
    tokenizer: TokenizerFiles | None = None
    numbered: tuple[str, ...] = ()
    unused: str = ""
    safetensors: str = ""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A model that the library can draw with.

    Attributes:
        name: `ModelConfig.architecture`, as config.json has it in our own format.
        prompts: the class of its prompts.
        published: None: there is our own format alone, in which config.json says all and tensors have our names.
    """

    name: str
    prompts: type[Prompts]
    published: Published | None = None
