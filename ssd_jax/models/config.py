"""Defines the static configurations of the backbone, of what is trained beside it, and of the bundled model's image
tokenizer."""

import dataclasses
from typing import NamedTuple

from ssd_jax.errors import UserError

NONE, UNKNOWN = -1, -2
"""Markers for a special id that the backbone does not have, and for one that it has but no file gives."""

SPECIAL = ("pad", "unk", "bos", "boi", "row_end")
"""Names of the special tokens of `ModelConfig`, each the field `<name>_id`."""

QK_NORMS = ("", "rms", "layer")
"""Valid values of `ModelConfig.qk_norm`."""


class ConfigError(UserError):
    """A configuration that cannot be used."""


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """A convolutional vector-quantised image tokenizer (VQGAN shape, arXiv 2012.09841).

    Attributes:
        channels: width of the first resolution level.
        multipliers: width of each level as a multiple of `channels`; each level after the first halves the grid.
        blocks: ResNet blocks per level in the encoder; the decoder has one more, as in VQGAN.
        patch: space-to-depth factor of the stem. 1 is the published models' plain convolution.
        groups: groups of every GroupNorm.
        codebook_size: number of codes, V.
        code_dim: width of a code vector.
        normalised: look codes up by cosine similarity (LlamaGen, Janus) instead of Euclidean distance.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    patch: int = 4
    groups: int = 16
    codebook_size: int = 1024
    code_dim: int = 8
    normalised: bool = True

    def __post_init__(self):
        for width in self.widths:
            if width % self.groups:
                raise ConfigError(f"groups ({self.groups}) must divide {width} channels.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every resolution level."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def stride(self) -> int:
        """Pixels per code along each axis."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama-style decoder over one sequence of text ids and visual codes.

    Attributes:
        vocab_size: size of the embedding table: text ids, special ids and, unless the codes have their own table,
            visual ids.
        visual_offset: id of visual code 0; code c is id `visual_offset + c`.
        visual_size: number of visual codes, V; the only outputs of the output head.
        layers, width, mlp_width, heads, kv_heads, head_dim: L, D, F, N, K, H.
        rope_theta: base of the rotary position embedding (half-split pairs).
        norm_eps: epsilon of every RMSNorm.
        qk_norm: how queries and keys are normalised per head before the rotation: "rms", "layer" (LayerNorm with a
            scale and a bias for every head), or "" for not at all.
        code_width: width of the codes' own embedding table, followed by an mlp to D; 0: codes are in the embedding
            table.
        head_width: hidden width of the output head when it is an mlp with biases; 0: it is one matrix.
        rows, cols: the default image grid, R and C.
        places: whether inputs have learned embeddings of their grid row and column, beside the rotary positions; rows
            and columns beyond the default grid have the embedding of its last.
        pad_id, unk_id, bos_id, boi_id: special ids: padding, unknown word, begin of text, begin of image.
        row_end_id: the token after every grid row, the last one included; `NONE` if there is none.
        cfg_scale: default classifier-free-guidance scale.
        top_k: default top-k of the sampler; 0 keeps all codes.
        architecture: name in the table of `ssd_jax.backbones`, which gives prompts and tensor names.

    A special id is `NONE` where the backbone has no such token, and `UNKNOWN` where no file gives it.
    """

    vocab_size: int
    visual_offset: int
    visual_size: int
    layers: int = 6
    width: int = 256
    mlp_width: int = 704
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_norm: str = "rms"
    code_width: int = 0
    head_width: int = 0
    rows: int = 16
    cols: int = 16
    places: bool = False
    pad_id: int = 0
    unk_id: int = 1
    bos_id: int = 2
    boi_id: int = 3
    row_end_id: int = NONE
    cfg_scale: float = 3.0
    top_k: int = 0
    architecture: str = "emoji"

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads}).")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim ({self.head_dim}) must be even for the rotary embedding.")
        if self.qk_norm not in QK_NORMS:
            raise ConfigError(f"qk_norm must be one of {QK_NORMS}, not {self.qk_norm!r}.")
        if not self.code_width and self.visual_offset + self.visual_size > self.vocab_size:
            raise ConfigError(
                f"visual ids {self.visual_offset}..{self.visual_offset + self.visual_size - 1} "
                f"do not fit a vocabulary of {self.vocab_size}."
            )
        for name in SPECIAL[1:]:  # padding is masked
            if (value := getattr(self, f"{name}_id")) >= self.vocab_size:
                raise ConfigError(f"{name}_id ({value}) does not fit a vocabulary of {self.vocab_size}.")


@dataclasses.dataclass(frozen=True)
class HeadsConfig:
    """Draft heads: one per offset, `horizontal` = 1..k_h columns to the right, `vertical` = 1..k_v grid rows down.

    Source: Spatially Speculative Decoding, arXiv 2606.20543 (k_h = 5, k_v = 1, no context as published).

    Attributes:
        horizontal, vertical: k_h and k_v.
        context: number of columns on either side of its source that a vertical draft head also sees; 0 is the
            published head.
    """

    horizontal: int = 5
    vertical: int = 2
    context: int = 0

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """(grid rows down, columns right) of every draft head, in the order of the stacked parameters."""
        right = tuple((0, d) for d in range(1, self.horizontal + 1))
        down = tuple((d, 0) for d in range(1, self.vertical + 1))
        return right + down


@dataclasses.dataclass(frozen=True)
class BranchConfig:
    """A vertical branch: blocks beside the backbone's last ones, which predict the code below an input instead of the
    next one.

    Source: FlashAR, arXiv 2605.09430 (4 layers as published).

    Attributes:
        layers: number of blocks; they start as copies of the backbone's last ones.
    """

    layers: int = 4

    def __post_init__(self):
        if self.layers < 1:
            raise ConfigError(f"A vertical branch has at least one layer, not {self.layers}.")


class HeadCounts(NamedTuple):
    """What has been trained beside a backbone; 0 for what has not.

    Attributes:
        horizontal, vertical: numbers of draft heads.
        branch_layers: number of layers of the vertical branch.
    """

    horizontal: int = 0
    vertical: int = 0
    branch_layers: int = 0

    @classmethod
    def of(cls, heads: HeadsConfig | None, branch: BranchConfig | None) -> "HeadCounts":
        """Those of these configs; None for what there is not."""
        counts = (0, 0) if heads is None else (heads.horizontal, heads.vertical)
        return cls(*counts, 0 if branch is None else branch.layers)
