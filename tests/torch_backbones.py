"""Small published backbones with random weights, in torch: what ours must reproduce, and the folders they are saved in.

Every norm, bias and running statistic is moved from its initial value, so that a tensor that is not loaded shows.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ssd_jax.backbones.hf_config import SIZES

torch.set_num_threads(1)

GRID = (2, 3)
PROMPTS = np.array([[1, 9, 12, 10, 11, 2], [0, 0, 0, 1, 13, 2]])  # the second is padded on the left
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]], bool)


@dataclasses.dataclass
class Reference:
    """A model of transformers and the folder that `save_pretrained` made of it.

    Attributes:
        trunk: the decoder without its head.
        codes: int64 [2, R*C], random.
        offset, row_end: id of visual code 0 and of the row end; None: codes are no ids, rows have no end.
    """

    folder: Path
    model: torch.nn.Module
    trunk: torch.nn.Module
    codes: np.ndarray
    offset: int | None
    row_end: int | None

    @property
    def image_ids(self) -> np.ndarray:
        """The image's tokens as the backbone sees them, row ends included, int64 [2, T]."""
        if self.offset is None:
            return self.codes
        rows = self.codes.reshape(2, *GRID) + self.offset
        return np.concatenate([rows, np.full((2, GRID[0], 1), self.row_end)], axis=2).reshape(2, -1)

    @property
    def code_places(self) -> np.ndarray:
        """Where, counted from the last prompt token, the codes are predicted."""
        place = np.arange(GRID[0] * GRID[1])
        return place if self.offset is None else place + place // GRID[1]

    @torch.no_grad()
    def run(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Hidden states behind every layer, before the final norm, L arrays [2, S + T, D]; visual logits."""
        image, prompts = torch.tensor(self.image_ids), torch.tensor(PROMPTS)
        embed = self.trunk.get_input_embeddings()
        own = self.offset is None
        images = self.model.prepare_embeddings_for_image_generation(image) if own else embed(image)
        mask = torch.tensor(np.concatenate([MASK, np.ones(image.shape, bool)], axis=1)).long()
        last = []
        hook = self.trunk.norm.register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
        out = self.trunk(
            inputs_embeds=torch.cat([embed(prompts), images], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            output_hidden_states=True,
        )
        hook.remove()
        if own:
            logits = self.model.model.generation_head(out.last_hidden_state)
        else:
            logits = self.model.lm_head(out.last_hidden_state)[..., self.offset : self.offset + self.codes.max() + 1]
        return [x.numpy() for x in (*out.hidden_states[1:-1], last[0])], logits.numpy()


def sizes(width: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, eps: float = 1e-5) -> dict:
    return dict(
        hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, rms_norm_eps=eps, max_position_embeddings=256,
    )  # fmt: skip


SMALL_VQ = dict(base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1)


def emu3(folder: Path, codes: int = 64, offset: int = 41, row_end: int = 6, grid: int = 90, **changes) -> Reference:
    vocabulary = {"<|extra_200|>": row_end, "<|image start|>": 2, "<image>": 8}
    vocabulary |= {f"<|visual token {code:06d}|>": offset + code for code in range(codes)}
    text = sizes(64, 160, 2, 4, 2, offset + codes) | dict(pad_token_id=0, bos_token_id=1, eos_token_id=3) | changes
    vq = SMALL_VQ | dict(codebook_size=codes, attn_resolutions=[1], hidden_size=32)
    sections = dict(text_config=text, vq_config=vq, vocabulary_map=vocabulary)
    model = Emu3ForConditionalGeneration(Emu3Config(**sections, image_area=(8 * grid) ** 2))
    return _saved(folder, model, lambda model: model.model.text_model, codes, offset, row_end)


def emu3_5(folder: Path, codes: int = 64, offset: int = 41, row_end: int = 6, grid: int = 64, **changes) -> Reference:
    """Emu3.5's language model is Qwen3's network; the config.json is in the style of its repository."""
    vocabulary = {"<|extra_200|>": row_end, "<|image start|>": 2}
    vocabulary |= {f"<|visual token {code:06d}|>": offset + code for code in range(codes)}
    text = sizes(64, 160, 2, 4, 2, offset + codes) | dict(head_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=3)
    rope = dict(rope_type="default", rope_theta=1e6)
    model = Qwen3ForCausalLM(Qwen3Config(**text | dict(rope_parameters=rope, tie_word_embeddings=False) | changes))
    made = _saved(folder, model, lambda model: model.model, codes, offset, row_end)
    path = Path(folder) / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    own = ("hidden_act", *SIZES)
    values = {name: values[name] for name in own if name in values} | {"rope_theta": 1e6, "rope_scaling": None}
    values |= dict(model_type="Emu3", architectures=["Emu3ForCausalLM"], vq_type="ibq", vocabulary_map=vocabulary)
    vq = SMALL_VQ | dict(codebook_size=codes, embed_dim=16, latent_channels=16, attn_resolutions=[32], resolution=64)
    values |= dict(vq_config=vq, image_area=(16 * grid) ** 2, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1)
    path.write_text(json.dumps(values), encoding="utf-8")
    return made


def chameleon(folder: Path, codes: int = 64, offset: int = 4, row_end: int = 70, **changes) -> Reference:
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    vocabulary = {"<s>": 1, "<pad>": 0, "<racm3:break>": 2, "<image>": 71, "<reserved08799>": row_end}
    vocabulary |= {f"IMGIMG{str(code).translate(letters)}Z": offset + code for code in range(codes)}
    config = sizes(64, 160, 2, 4, 4, 75 + offset) | dict(pad_token_id=0, bos_token_id=1, eos_token_id=3) | changes
    vq = SMALL_VQ | dict(num_embeddings=codes, embed_dim=16, latent_channels=16, attn_resolutions=[], resolution=64)
    model = ChameleonForConditionalGeneration(ChameleonConfig(**config, vq_config=vq, vocabulary_map=vocabulary))
    return _saved(folder, model, lambda model: model.model, codes, offset, row_end)


def janus(folder: Path, codes: int = 64, code_width: int = 8, grid: int = 2, **changes) -> Reference:
    text = sizes(64, 160, 2, 4, 4, 80, 1e-6) | dict(pad_token_id=0, bos_token_id=1, eos_token_id=3) | changes
    width = text["hidden_size"]
    vision = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=4 * grid, patch_size=4)
    vision |= dict(projection_dim=width, num_image_tokens=grid**2)
    vq = SMALL_VQ | dict(num_embeddings=codes, embed_dim=code_width, latent_channels=32, projection_dim=width)
    vq["image_token_embed_dim"] = width
    model = JanusForConditionalGeneration(
        JanusConfig(text_config=text | dict(model_type="llama"), vision_config=vision, vq_config=vq, image_token_id=5,
                    tie_word_embeddings=False)
    )  # fmt: skip
    return _saved(folder, model, lambda model: model.model.language_model, codes, None, None)


def _saved(folder, model, trunk, codes, offset, row_end) -> Reference:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if not x.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(x.shape, generator=generator)
            if name.endswith("running_var"):
                x.copy_(0.5 + noise.abs())
            elif x.ndim == 1 or "_norm." in name:
                x.add_(0.2 * noise)
            else:  # larger than usual, so that attention and logits are not flat
                x.copy_(noise * 1.5 * x.shape[-1] ** -0.5)
    model.eval().set_attn_implementation("eager")
    model.save_pretrained(folder)
    random = np.random.default_rng(0).integers(0, codes, (2, GRID[0] * GRID[1]))
    random[0, 0] = codes - 1
    return Reference(Path(folder), model, trunk(model), random, offset, row_end)
