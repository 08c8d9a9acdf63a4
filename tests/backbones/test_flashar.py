"""The released FlashAR checkpoint of Emu3.5 against torch, in the layout and with the names that its code writes.

The network is Qwen3's with a mask by diagonals, and copies of its last layers beside it; all of it is written out here
after the released code (github.com/lxazjk/Emu3.5-FlashAR).
"""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_backbones
from byte_tokenizers import byte_tokenizer
from published_folders import FIRST_BYTE, SPECIAL
from safetensors.numpy import load_file, save_file
from torch_backbones import MASK, PROMPTS
from toy import flash_logits

import ssd_jax
from ssd_jax.errors import UserError
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.sequence.layout import Grid
from ssd_jax.weights.load import read_config

GRID, OFFSET, CODES, LAYERS, BRANCH = Grid(3, 4), 300, 64, 4, 2


@dataclasses.dataclass
class FlashAR:
    """The torch model: Qwen3 and, beside its last layers, what the released class calls vertical and gate."""

    model: torch.nn.Module
    blocks: list[torch.nn.Module]
    norm: torch.nn.Module
    head: torch.Tensor
    gate: list[torch.Tensor]

    @torch.no_grad()
    def logits(self, codes: np.ndarray) -> np.ndarray:
        """Fused logits of all codes but the first, which the released code mixes in a way of its own; [2, P - 1, V]."""
        R, C, S = GRID.rows, GRID.cols, PROMPTS.shape[1]
        trunk, ids = self.model.model, torch.tensor(np.concatenate([PROMPTS, codes + OFFSET], axis=1))
        real = torch.tensor(np.concatenate([MASK, np.ones((2, R * C), bool)], axis=1))
        step = torch.arange(R * C) // C + torch.arange(R * C) % C
        image = step[None, :] <= step[:, None]
        allowed = torch.eye(S + R * C, dtype=torch.bool).repeat(2, 1, 1)
        allowed[:, :S, :S] |= torch.tril(torch.ones(S, S, dtype=torch.bool)) & real[:, None, :S]
        allowed[:, S:, :S] |= real[:, None, :S]
        allowed[:, S:, S:] |= image
        least = torch.finfo(torch.float32).min
        places = (real.cumsum(-1) - 1).clamp(min=0)
        x = trunk.get_input_embeddings()(ids)
        angles, states = trunk.rotary_emb(x, places), []
        for layer in trunk.layers:
            states.append(x)
            mask = torch.where(allowed[:, None], 0.0, least)
            x = layer(x, attention_mask=mask, position_ids=places, position_embeddings=angles)
        right, below = trunk.norm(x)[:, S:], states[-BRANCH][:, S:]
        inner = tuple(part[:, S:] for part in angles)
        for layer in self.blocks:
            mask = torch.where(image[None, None], 0.0, least)
            below = layer(below, attention_mask=mask, position_ids=places[:, S:], position_embeddings=inner)
        below = self.norm(below)
        own = self.model.lm_head(right)[..., OFFSET:], (below @ self.head.T)[..., OFFSET:]
        out = []
        for position in range(1, R * C):
            left, above = position - 1, position - C
            if position < C:
                out.append(own[0][:, left])
            elif position % C == 0:
                out.append(own[1][:, above])
            else:
                both = torch.cat([right[:, left], below[:, above]], dim=-1)
                inside, outside, bias = self.gate
                share = torch.sigmoid(torch.nn.functional.silu(both @ inside.T) @ outside.T + bias)
                out.append(share * own[0][:, left] + (1 - share) * own[1][:, above])
        return torch.stack(out, dim=1).numpy()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(the torch model, its folder as the released code writes it)."""
    folder = tmp_path_factory.mktemp("flashar")
    made = torch_backbones.emu3_5(folder / "plain", CODES, OFFSET, num_hidden_layers=LAYERS, head_dim=16)
    trunk, rng = made.model.model, np.random.default_rng(1)

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x + 0.3 * x.std().nan_to_num(1.0) * torch.tensor(rng.normal(size=x.shape), dtype=torch.float32)

    blocks, norm = copy.deepcopy(list(trunk.layers[-BRANCH:])), copy.deepcopy(trunk.norm)
    with torch.no_grad():
        for parameter in [*(x for block in blocks for x in block.parameters()), norm.weight]:
            parameter.copy_(moved(parameter))
    width = trunk.config.hidden_size
    shapes = (64, 2 * width), (1, 64), (1,)
    gate = [torch.tensor(rng.normal(size=shape) * shape[-1] ** -0.5, dtype=torch.float32) for shape in shapes]
    model = FlashAR(made.model, blocks, norm, moved(made.model.lm_head.weight.detach()), gate)
    tensors = {}
    for name, x in load_file(folder / "plain" / "model.safetensors").items():
        kept = "horizontal_head.weight" if name == "lm_head.weight" else name.replace("model.", "backbone.", 1)
        tensors[kept] = x
    for index, block in enumerate(blocks):
        tensors |= {f"vertical_block.{index}.{name}": x.detach().numpy() for name, x in block.named_parameters()}
    tensors |= {"vertical_norm.weight": norm.weight.detach().numpy(), "vertical_head.weight": model.head.numpy()}
    names = ("hv_gate_mlp.0.weight", "hv_gate_mlp.2.weight", "hv_gate_mlp.2.bias")
    tensors |= dict(zip(names, (x.numpy() for x in gate), strict=True))
    tensors |= {
        "hv_gate_corner.weight": np.zeros((1, width), np.float32),
        "hv_gate_corner.bias": np.zeros(1, np.float32),
    }
    (folder / "flashar").mkdir()
    save_file(tensors, folder / "flashar" / "model.safetensors")
    backbone = json.loads((folder / "plain" / "config.json").read_text())
    backbone |= {"eol_token_id": 6}
    del backbone["vocabulary_map"]
    values = dict(model_type="emu3_flashar", architectures=["Emuflashar"], format="hf_safetensors", format_version=1)
    values |= dict(vocab_size=OFFSET + CODES, hidden_size=width, visual_token_offset=OFFSET, use_vertical_block=True)
    values |= dict(vertical_layers=BRANCH, vertical_start_layer=LAYERS - BRANCH, backbone_config=backbone)
    (folder / "flashar" / "config.json").write_text(json.dumps(values))
    byte_tokenizer(SPECIAL["emu3_5"], first=FIRST_BYTE["emu3_5"]).save(str(folder / "flashar" / "tokenizer.json"))
    return model, folder / "flashar"


def test_its_config_is_emu3_5s_without_row_ends(released):
    config, _ = read_config(released[1])
    assert (config.architecture, config.rows, config.cols, config.row_end_id) == ("emu3_5", 32, 32, -1)
    assert (config.visual_offset, config.visual_size, config.layers, config.top_k) == (OFFSET, CODES, LAYERS, 0)
    assert find_models({}, "here", str(released[1])).branch.layers == BRANCH  # as --plan finds it


def test_it_predicts_what_the_released_code_predicts(released):
    model, folder = released
    pipe = ssd_jax.load(folder, dtype=jnp.float32)
    codes = np.random.default_rng(2).integers(0, CODES, (2, GRID.size)).astype(np.int32)

    @jax.jit
    def ours(params):
        given = jnp.asarray(PROMPTS, jnp.int32), jnp.asarray(MASK), jnp.asarray(codes)
        return flash_logits(pipe.model.forked, params, *given, GRID)

    expected = model.logits(codes)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours(pipe.model.both)[:, 1:], expected, atol=2e-4, rtol=2e-4)


def test_it_draws(released):
    """As loaded by default, and in int8; the branch counts as part of the backbone's file."""
    for quantize in (None, "int8"):
        pipe = ssd_jax.load(released[1], dtype=jnp.float32, quantize=quantize)
        out = pipe.generate(["a red cat"], decoder="flash", pixels=False, max_passes=4)
        assert out.passes.tolist() == [4]
    assert pipe.origin.fingerprints(pipe.config)["branch"] is None


def test_without_text_its_prompt_is_the_unconditional_one(released):
    """Unlike Emu3.5's own, which is no prompt "for t2i task"."""
    prompt, unconditional = ssd_jax.load(released[1], dtype=jnp.float32).prompts.pair("", None, GRID)
    assert prompt == unconditional


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vertical_start_layer": 1}, ["config.json", "vertical_start_layer must be 2", "not 1"]),
        ({"vertical_layers": "two"}, ["config.json", "vertical_layers"]),
        ({"use_vertical_block": False}, ["config.json", "use_vertical_block"]),
        ({"vertical_layers": 3, "vertical_start_layer": 1}, ["vertical_block.2"]),
    ],
)
def test_another_branch_is_refused_in_one_sentence(released, tmp_path, changes, words):
    values = json.loads((released[1] / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(released[1] / "model.safetensors")
    with pytest.raises(UserError) as caught:
        ssd_jax.load(tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
