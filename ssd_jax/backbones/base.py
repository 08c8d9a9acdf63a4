"""Defines `Backbone`, the description of a supported model that loading, prompts, weights, plans and configs use.

Every backbone has one file, the only one that knows the model by name; the rest of the library looks it up in the table
of `ssd_jax.backbones`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from ssd_jax.models.config import BranchConfig, ModelConfig
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig
from ssd_jax.sequence.layout import Grid


@dataclasses.dataclass(frozen=True)
class Token:
    """A special token.

    Attributes:
        name: its name in the vocabulary, which is looked up first.
        key: the key of config.json that may also give its id; "" for none. If neither gives it, it is the published id,
            the field `<key in Published.tokens>_id` of `Published.model`.
    """

    name: str
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Naming:
    """One way to name the tensors of a backbone.

    Attributes:
        trunk: prefix of `embed_tokens`, `layers` and `norm`.
        rest: our other parameters -> tensor name.
        layers: the blocks' part of a name, behind the trunk and before a number.
    """

    trunk: str
    rest: Mapping[str, str]
    layers: str = "layers."

    @property
    def blocks(self) -> str:
        """A block's part of a name, before its number."""
        return self.trunk + self.layers

    @property
    def embedding(self) -> str:
        """Tensor name of the embedding table, by which the naming is recognised."""
        return f"{self.trunk}embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class ConfigJson:
    """How a published config.json is recognised and read.

    Attributes:
        kinds: its possible values of `model_type`, or in `architectures`.
        codes: (config.json, vocabulary, token -> id) -> fields of `ModelConfig` that describe the visual codes, or
            are other than the keys would say.
        sections: the sections that may describe the language model; without any, the top level does.
        missing: field -> default of a missing size where it is not the published model's; None for `kv_heads` means as
            many as `heads`. Without an entry of its own a missing `head_dim` is width / heads.
        unused: keys with any value allowed, because they concern unused parts of the model.
        claims: tells the model's config.json from that of another model with the same kinds.
    """

    kinds: tuple[str, ...]
    codes: Callable[[Mapping, Mapping[str, int]], dict[str, Any]]
    sections: tuple[str, ...] = ()
    missing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    claims: Callable[[Mapping], bool] = lambda values: True


@dataclasses.dataclass(frozen=True)
class PublishedVQ:
    """The image tokenizer of a published model: its config, how config.json describes it, how its tensors are named.

    Attributes:
        config: the published config. A config.json omits values equal to it.
        attention_levels: (section of config.json, number of levels) -> `LevelsConfig.attention_levels`.
        keys: keys of that section, beyond those of all models (`hf_vq.FIELDS`) -> our field.
        sections: possible locations of the section in config.json, as key paths.
        prefixes: prefixes of its tensor names in a checkpoint of the full model; none in a file of its own.
        rules: (pattern, replacement) pairs, applied in order, that map its names to those of the original VQGAN code
            (see `weights.vq_names`).
        lowest_first: whether the decoder's levels are numbered from the lowest resolution.
    """

    config: VQGANConfig | MoVQConfig
    attention_levels: Callable[[Mapping, int], tuple[int, ...]]
    keys: Mapping[str, str]
    sections: tuple[tuple[str, ...], ...] = (("vq_config",),)
    prefixes: tuple[str, ...] = ("model.vqmodel.", "vqmodel.")
    rules: tuple[tuple[str, str], ...] = ()
    lowest_first: bool = False


@dataclasses.dataclass(frozen=True)
class PublishedBranch:
    """The vertical branch of checkpoints that were trained with one and hold both.

    Attributes:
        config: config.json -> the branch's config, or None if this checkpoint has no branch; raises `ConfigError` for
            one that ours cannot be.
        naming: how its tensors are named, which stand in the backbone's file.
    """

    config: Callable[[Mapping], BranchConfig | None]
    naming: Naming


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The files of a tokenizer in another format than tokenizer.json.

    Attributes:
        names: names in the checkpoint's folder; the first one's presence means that all are there.
        read: folder -> tokenizer; raises `UserError` if a file is missing or malformed.
    """

    names: tuple[str, ...]
    read: Callable[[Path], Tokenizer]


class Prompts(Protocol):
    """Turns texts into ids in the format that the backbone was trained on, and image sizes into grids.

    A class is called with a tokenizer and the backbone's `ModelConfig`. That of a published model also gets the
    `vocabulary_map` of config.json, token -> id, and special ids by key, which take precedence over names.
    """

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """Ids of the prompt's frame and of the negative one for guidance; `negative` None is the backbone's default.
        Raises `UserError` for a prompt that it cannot take."""

    def words(self, text: str) -> list[str]:
        """The words of a text that it reads."""

    def unknown(self, text: str) -> list[str]:
        """The words of a text that it was not trained on."""

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The token grid of an image size, (height, width) in pixels or text; `stride` is pixels per token. Raises
        `UserError` for sizes that the backbone does not support."""


@dataclasses.dataclass(frozen=True)
class Published:
    """Description of a model with a published checkpoint format.

    Attributes:
        model: sizes, special ids, default grid, guidance scale and top-k: the defaults of missing keys of config.json,
            unless `config_json` says otherwise.
        config_json: how its config.json is read.
        tokens: key -> special token. A key `x` with a field `x_id` in `ModelConfig` is the model's; the others are for
            prompts only.
        vq: its image tokenizer.
        namings: the ways in which its tensors are named, transformers' first.
        tokenizer: its tokenizer's files, if one of its repositories has others than tokenizer.json.
        numbered: keys of families of special tokens for prompts only: "size" is size_1, size_2, ...
        unused: pattern of the names of tensors that generation does not need, beside those of the image tokenizer.
        safetensors: the repositories that have it as safetensors, if its first one has only pickles; in words.
        branch: the vertical branch that some of its checkpoints have.
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
    branch: PublishedBranch | None = None


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A supported model.

    Attributes:
        name: `ModelConfig.architecture`, as in a config.json of our own format.
        prompts: the class of its prompts.
        published: its published format; None if it has our own format only, with our config.json and tensor names.
    """

    name: str
    prompts: type[Prompts]
    published: Published | None = None
