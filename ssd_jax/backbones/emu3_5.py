"""Emu3.5-Image by BAAI (arXiv 2510.26583; github.com/baaivision/Emu3.5), 34 billion parameters.

    BOS "You are a helpful assistant for t2i task. USER: text ASSISTANT: " TASK
        BOI "ROWS*COLS" IMG | (COLS codes, row end) x ROWS

Emu3 with queries and keys that are normalised per head, four times as many codes, and codes of 16 x 16 pixels. Prompts
and sizes follow its `configs/example_config_t2i.py`, `logits_processor.py` and `input_utils.py`. The model would sample
all from BOI to IMG itself; for a given size these are part of the prompt, of the unconditional one too.

The repository does not state the sizes of the 34 B model. Those here are Qwen3-32B's, as in the config.json of
Xiaomi-Robotics-U0, which was trained from Emu3.5; with this vocabulary they make 34.1 billion. A checkpoint's own
config.json goes before them.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ssd_jax.backbones.base import Backbone, ConfigJson, Naming, Published, PublishedBranch, PublishedVQ, Token
from ssd_jax.backbones.emu_text import TOKENIZER, EmuPrompts
from ssd_jax.backbones.emu_text import TOKENS as SHARED
from ssd_jax.backbones.fields import code_range, levels_of_resolutions, section
from ssd_jax.errors import shown
from ssd_jax.models.config import NONE, BranchConfig, ConfigError, ModelConfig
from ssd_jax.models.vq_config import VQGANConfig
from ssd_jax.sequence.layout import Grid

MODEL = ModelConfig(
    architecture="emu3_5",
    vocab_size=282926,
    visual_offset=151854,
    visual_size=131072,
    layers=64,
    width=5120,
    mlp_width=25600,
    heads=64,
    kv_heads=8,
    head_dim=128,
    rope_theta=1e6,
    norm_eps=1e-5,
    qk_norm="rms",
    rows=64,
    cols=64,
    pad_id=151643,
    unk_id=NONE,
    bos_id=151849,
    boi_id=151852,
    row_end_id=151846,
    cfg_scale=5.0,
    top_k=5120,
)

TOKENS = {**SHARED, "task": Token("<|extra_100|>")}

VQ = VQGANConfig(
    channels=256,
    multipliers=(1, 1, 2, 2, 4),
    blocks=4,
    attention_levels=(4,),
    codebook_size=MODEL.visual_size,
    code_dim=256,
    latent_dim=256,
    inner_product=True,
)
"""Emu3.5-VisionTokenizer (IBQ, arXiv 2412.02692), 455 million parameters; the sizes are those of transformers' port of
its encoder, the class `Apertus1p5VisionTokenizerConfig`."""


def _is_emu3_5(values: Mapping) -> bool:
    """Its config.json has the `model_type` of Emu3's, but more ids. `vq_type` is in the config.json of
    Xiaomi-Robotics-U0; it tells a small model's."""
    size = values.get("vocab_size")
    ours = values.get("vq_type") == "ibq" or values.get("model_type") == FLASHAR
    return ours or (type(size) is int and size >= MODEL.vocab_size)


OF_EMU3 = 720**2
"""The `image_area` that the class has by default, from Emu3; Emu3.5-Image draws 1024 x 1024 pixels."""


FLASHAR = "emu3_flashar"
"""The `model_type` of lxazjk/Emu3.5-Image-FlashAR (arXiv 2605.09430): Emu3.5-Image, trained on 32 x 32 codes without
row ends, with a vertical branch. Guidance 5 and no top-k are those of the script that drew for GenEval
(`tools/run_nogatecollapse_10k_geneval.sh`), as is the unconditional prompt, which is the prompt without text. The
backbone's config.json is a section of its own, and none has the grid. `horizontal_head` is the backbone's own head."""


def _flashar_branch(values: Mapping) -> BranchConfig | None:
    if values.get("model_type") != FLASHAR:
        return None
    layers, depth = values.get("vertical_layers"), section(values, "backbone_config").get("num_hidden_layers")
    if type(layers) is not int or type(depth) is not int or not values.get("use_vertical_block", True):
        raise ConfigError("vertical_layers and num_hidden_layers must be whole numbers, and use_vertical_block true.")
    start = values.get("vertical_start_layer", depth - layers)
    if start != depth - layers:
        raise ConfigError(
            f"vertical_start_layer must be {depth - layers}, so that the branch ends with the backbone, not "
            f"{shown(start)}."
        )
    return BranchConfig(layers)


def _codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    if values.get("model_type") == FLASHAR:
        size = values.get("vocab_size", MODEL.vocab_size)
        offset = values.get("visual_token_offset", MODEL.visual_offset)
        flashar = {"visual_offset": offset, "visual_size": size - offset, "row_end_id": NONE, "top_k": 0}
        return {"rows": 32, "cols": 32, **flashar}
    area = values.get("image_area", OF_EMU3)
    side = MODEL.rows if area == OF_EMU3 else round(math.sqrt(area) / VQ.stride)
    size = section(values, "vq_config").get("codebook_size", MODEL.visual_size)
    found = code_range(vocabulary, lambda code: f"<|visual token {code:06d}|>", MODEL.visual_offset, size)
    return {"rows": side, "cols": side, **found}


SYSTEM = "You are a helpful assistant{}. USER: {} ASSISTANT: "
"""The text between BOS and TASK."""


class Emu35Prompts(EmuPrompts):
    """Frames of Emu3.5-Image for drawing from text. It is published without negative prompts; giving them the frame of
    the unconditional prompt, with their text in it, is our choice."""

    NAMES: ClassVar = {key: token.name for key, token in TOKENS.items()}
    TITLE: ClassVar = "Emu3.5"

    def frame(self, text: str, grid: Grid, task: str = " for t2i task") -> list[int]:
        """`BOS system text TASK BOI "ROWS*COLS" IMG`."""
        said = self.text(text, SYSTEM.format(task, "{}"))
        return [self.id("bos"), *said, self.id("task"), *self.opening(grid)]

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The frames of the prompt and of the negative prompt; None is the empty one, as published (see `FLASHAR`)."""
        task = {} if self._config.row_end_id == NONE else {"task": ""}
        return self.frame(text, grid), self.frame(negative or "", grid, **task)

    @staticmethod
    def of_ratio(height: int, width: int, area: int, stride: int) -> Grid:
        """Rounded down twice, the longer side first, as in the published table: 16:9 is 47 x 85."""
        ratio = max(height, width) / min(height, width)
        longer = int((area * ratio) ** 0.5)
        long, short = longer // stride, int(longer / ratio) // stride
        return Grid(long, short) if height > width else Grid(short, long)


BACKBONE = Backbone(
    "emu3_5",
    Emu35Prompts,
    Published(
        model=MODEL,
        config_json=ConfigJson(
            kinds=("Emu3", "Emu3ForCausalLM", FLASHAR),
            codes=_codes,
            sections=("backbone_config",),
            missing={"head_dim": 128},
            claims=_is_emu3_5,
        ),
        tokens=TOKENS,
        vq=PublishedVQ(VQ, levels_of_resolutions(256, (16,)), keys={"codebook_size": "codebook_size"}),
        namings=(
            Naming("model.", {"visual_head": "lm_head.weight"}),
            Naming("backbone.", {"visual_head": "horizontal_head.weight"}),
        ),
        tokenizer=TOKENIZER,
        unused=r"(vertical|hv_gate)_.*",
        branch=PublishedBranch(
            _flashar_branch,
            Naming(
                "",
                {
                    "visual_head": "vertical_head.weight",
                    "final_norm.scale": "vertical_norm.weight",
                    "gate_in": "hv_gate_mlp.0.weight",
                    "gate_out": "hv_gate_mlp.2.weight",
                    "gate_bias": "hv_gate_mlp.2.bias",
                },
                layers="vertical_block.",
            ),
        ),
    ),
)
