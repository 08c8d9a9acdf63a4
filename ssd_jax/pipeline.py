"""What users hold: a loaded model that turns prompts into pictures."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from ssd_jax.decode.engine import decode, make_cache
from ssd_jax.decode.presets import PRESETS, Decoder, find_decoder, require_heads, require_window
from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.heads import boxed_heads
from ssd_jax.models.transformer import Transformer, boxed_backbone, image_hidden
from ssd_jax.models.vq import to_float, to_uint8
from ssd_jax.models.vq_models import AnyVQConfig, abstract_vq, vq_model
from ssd_jax.prompts import grid_of, pad_left, read_prompts
from ssd_jax.request import Output, images_of_call
from ssd_jax.sampling import Sampler, image_keys
from ssd_jax.shapes import bucket
from ssd_jax.sharding import DATA, check_divides, make_mesh, place, replicate, using
from ssd_jax.weights.hub import download, find_local, is_hub_id
from ssd_jax.weights.load import (
    find_vq_weights,
    fingerprint,
    read_backbone,
    read_config,
    read_heads_config,
    read_tensors,
    read_vq,
)
from ssd_jax.weights.store import find_weights

BUNDLED = Path(__file__).parent / "assets"
"""Checkpoints that come with the package, by folder name."""


class Pipeline:
    """A backbone, its VQ tokenizer and its prompts. Made by `load`.

    Attributes:
        folder: where the checkpoint lies.
        config, vq_config: what config.json says.
        params: the backbone's parameters.
        heads, heads_params: the draft heads' config and parameters; None without heads.
        dtype: of parameters and cache.
        vq_weights: file or folder of the VQ tokenizer; None: it lies in the folder.
        tokens: ids of special tokens, by key, that go before those its files name; None is none.
        mesh: the devices over which model and cache are spread; None is one device. The VQ tokenizer is on one.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        vq_config: AnyVQConfig,
        params: Any,
        dtype: jnp.dtype,
        heads: HeadsConfig | None = None,
        heads_params: Any = None,
        vq_weights: Path | None = None,
        tokens: Mapping[str, int] | None = None,
        mesh: Mesh | None = None,
    ):
        self.folder, self.config, self.vq_config = folder, config, vq_config
        self.params, self.dtype = params, dtype
        self.heads, self.heads_params = heads, heads_params
        self.vq_weights = vq_weights
        self.tokens = tokens
        self.mesh = mesh
        self._vq_params: Any = None
        self._prompts: Any = None
        self._programs: dict[Any, Any] = {}

    # -- prompts to pictures

    def generate(
        self,
        prompts: Sequence[str],
        decoder: str | Decoder = "ar",
        num_images: int = 1,
        seed: int | Sequence[int] = 0,
        cfg_scale: float | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
        size: tuple[int, int] | str | None = None,
        max_batch: int | None = None,
        pixels: bool = True,
    ) -> Output:
        """Draws `num_images` pictures of every prompt.

        Args:
            prompts: one or more texts.
            decoder: a preset's name or a decoder dataclass.
            num_images: pictures per prompt.
            seed: one for all prompts, or one for each. The picture of (prompt, seed) does not depend on what else is in
                the call; equal prompts are numbered in order of appearance and differ.
            cfg_scale: classifier-free guidance; None is the model's own default, 1 turns it off and halves the work.
            temperature: 0 takes the most likely code everywhere.
            top_k, top_p: keep the k most likely codes, or the most likely ones up to this mass; None is the model's
                default (top_k) or off (top_p). top_k 0 is off.
            negative_prompt: what the guidance leads away from; None is the model's own: Emu3's published text,
                otherwise no prompt. Lumina-mGPT and Janus-Pro are published without negative prompts; here one takes
                the frame of a prompt, which they were never trained to be led away from.
            size: (height, width) of the pictures in pixels, or text: "512x768", height first, or, for Emu3, an aspect
                ratio "16:9", width first. None is the size the model was trained on.
            max_batch: at most so many pictures at once; None decodes all together. On a mesh it is rounded up to what
                fills the data axis.
            pixels: False gives tokens alone, and takes no image tokenizer.
        Raises:
            UserError: a value out of range, an unknown decoder, a window larger than the picture, draft heads or a file
                that is missing.
        """
        texts, seeds, numbers = images_of_call(prompts, num_images, seed)
        decoder = find_decoder(decoder)
        self.require(decoder, size)
        scale = self.config.cfg_scale if cfg_scale is None else float(cfg_scale)
        sampler = self._sampler(scale, temperature, top_k, top_p)
        guided = scale != 1.0
        if max_batch is not None and max_batch < 1:
            raise UserError(f"max_batch must be at least 1, not {max_batch}.")
        grid = grid_of(self.config, size, self.vq_config.stride)
        frames, negatives = zip(*(self.prompts.pair(text, negative_prompt, grid) for text in texts), strict=True)
        if pixels:
            self.vq_params  # noqa: B018 - a damaged file is reported before the work, not after it
        batch = self.whole_rows(min(len(texts), max_batch or len(texts)), guided)
        parts, seconds, compile_seconds = [], 0.0, 0.0
        for start in range(0, len(texts), batch):
            part = [min(index, len(texts) - 1) for index in range(start, start + batch)]  # a short last batch is filled
            rows = [frames[index] for index in part] + ([negatives[index] for index in part] if guided else [])
            keys = image_keys(jnp.array([seeds[i] for i in part], jnp.uint32), jnp.array([numbers[i] for i in part]))
            decoded, taken, compiling = self._decode(rows, keys, sampler, decoder, guided, grid)
            count = min(batch, len(texts) - start)
            parts.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], decoded))
            seconds, compile_seconds = seconds + taken, compile_seconds + compiling
        tokens, passes, trace = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        shape = (-1, grid.rows, grid.cols)
        tokens = tokens.reshape(shape)
        parts = [tokens[start : start + batch] for start in range(0, len(tokens), batch)] if pixels else []
        images = [Image.fromarray(picture) for part in parts for picture in self.decode(part)]
        return Output(images, tokens, passes, trace.reshape(shape), seconds, compile_seconds, texts, seeds, numbers)

    def decoders(self) -> list[str]:
        """Names of the presets this checkpoint can run."""
        counts = self._head_counts()
        return [name for name, decoder in PRESETS.items() if all(map(int.__le__, decoder.heads, counts))]

    def require(self, decoder: Decoder, size: tuple[int, int] | str | None = None) -> None:
        """Raises `UserError` if the decoder needs draft heads that this checkpoint lacks, or a larger picture."""
        require_heads(decoder, *self._head_counts())
        require_window(decoder, grid_of(self.config, size, self.vq_config.stride))

    def _head_counts(self) -> tuple[int, int]:
        return (self.heads.horizontal, self.heads.vertical) if self.heads else (0, 0)

    def fingerprint(self) -> str:
        """Identifies the backbone's file (see `weights.load.fingerprint`)."""
        return fingerprint(find_weights(self.folder))

    def _sampler(self, scale: float, temperature: float, top_k: int | None, top_p: float | None) -> Sampler:
        for name, value in (("cfg_scale", scale), ("temperature", temperature)):
            if not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, but is {value}.")
        if temperature < 0:
            raise UserError(f"temperature must not be negative, but is {temperature}.")
        top_k = self.config.top_k if top_k is None else top_k
        if top_k < 0:
            raise UserError(f"top_k must not be negative, but is {top_k}.")
        if top_p is not None and not 0 < top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, but is {top_p}.")
        return Sampler(
            cfg_scale=jnp.float32(scale),
            temperature=jnp.float32(temperature),
            top_k=jnp.int32(min(top_k or self.config.visual_size, self.config.visual_size)),
            top_p=jnp.float32(1.0 if top_p is None else top_p),
        )

    def _decode(self, frames: list, keys: jax.Array, sampler: Sampler, decoder: Decoder, guided: bool, grid: Grid):
        """Runs the compiled program of these shapes; returns ((tokens, passes, trace), seconds, compile seconds)."""
        ids, mask = pad_left(frames, max(self.config.pad_id, 0))  # masked, so any id will do
        cache = make_cache(self.config, grid, len(frames), ids.shape[1], self.dtype, self.mesh)
        arguments = (self.params, cache, *replicate((ids, mask, keys, sampler), self.mesh))
        drafts = any(decoder.heads)
        heads_params = self.heads_params if drafts else None
        shapes = (ids.shape, decoder, guided, grid)
        compiling = 0.0
        if shapes not in self._programs:
            start = time.perf_counter()
            static = dict(config=self.config, decoder=decoder, grid=grid, guided=guided)
            heads = self.heads if drafts else None
            with using(self.mesh, self.config):
                lowered = decode.lower(*arguments, **static, heads=heads, heads_params=heads_params)
                self._programs[shapes] = lowered.compile()
            compiling = time.perf_counter() - start
        start = time.perf_counter()
        out = jax.block_until_ready(self._programs[shapes](*arguments, heads_params=heads_params))
        return (out.tokens, out.passes, out.trace), time.perf_counter() - start, compiling

    def whole_rows(self, batch: int, guided: bool) -> int:
        """The next batch of pictures whose rows, those of guidance included, fill the data axis of the mesh."""
        parts = 1 if self.mesh is None else self.mesh.shape[DATA]
        return bucket(batch, parts // math.gcd(parts, 1 + guided))

    # -- teacher forcing, pixels

    def visual_logits(
        self,
        prompt_ids: np.ndarray,
        codes: np.ndarray,
        grid: tuple[int, int] | None = None,
        prompt_mask: np.ndarray | None = None,
    ) -> jax.Array:
        """The logits that predict each code from the prompt and all earlier codes.

        Args:
            prompt_ids: int32 [B, S], taken verbatim.
            codes: int32 [B, R*C].
            grid: (R, C); None is the model's own.
            prompt_mask: bool [B, S], False on (left) padding; None is all True.
        Returns:
            float32 [B, R*C, V].
        Raises:
            UserError: codes that do not fill the grid; ids or codes that the model does not have.
        """
        rows, cols = grid or (self.config.rows, self.config.cols)
        prompt_ids, codes = np.asarray(prompt_ids, np.int32), np.asarray(codes, np.int32)
        if codes.shape[1] != rows * cols:
            raise UserError(f"A grid of {rows} x {cols} has {rows * cols} codes, not {codes.shape[1]}.")
        for name, ids, size in (
            ("prompt_ids", prompt_ids, self.config.vocab_size),
            ("codes", codes, self.config.visual_size),
        ):
            if ids.size and (ids.min() < 0 or ids.max() >= size):
                raise UserError(f"{name} must lie in 0..{size - 1}, but go from {ids.min()} to {ids.max()}.")
        mask = jnp.ones(prompt_ids.shape, bool) if prompt_mask is None else jnp.asarray(prompt_mask, bool)
        rest = replicate((jnp.asarray(prompt_ids), mask, jnp.asarray(codes)), self.mesh)
        with using(self.mesh, self.config):
            return _visual_logits(self.params, *rest, config=self.config, grid=Grid(rows, cols))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Pictures uint8 [B, H, W, 3] to codes int32 [B, R, C]."""
        images = np.asarray(images)
        stride = self.vq_config.stride
        fits = (
            images.ndim == 4 and images.shape[3] == 3 and not images.shape[1] % stride and not images.shape[2] % stride
        )
        if not fits or images.dtype != np.uint8:
            raise UserError(
                f"Pictures must be uint8 [B, H, W, 3] with H and W multiples of {stride}, "
                f"not {images.dtype} {images.shape}."
            )
        return np.asarray(_to_codes(self.vq_params, images, config=self.vq_config))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int32 [B, R, C] to pictures uint8 [B, H, W, 3]."""
        codes = np.asarray(codes, np.int32)
        if codes.ndim != 3 or not codes.size or codes.min() < 0 or codes.max() >= self.vq_config.codebook_size:
            raise UserError(f"Codes must be [B, R, C] with values in 0..{self.vq_config.codebook_size - 1}.")
        return np.asarray(_to_pixels(self.vq_params, codes, config=self.vq_config))

    # -- parts that are read when they are first needed

    @property
    def prompts(self) -> Any:
        """Text to ids; read on first use, so a folder without tokenizer.json loads."""
        if self._prompts is None:
            self._prompts = read_prompts(self.folder, self.config, self.tokens)
        return self._prompts

    @property
    def vq_params(self) -> Any:
        """The VQ tokenizer's parameters; read on first use, so a folder without vq.safetensors loads. Raises
        `UserError` if they cannot be read or are for another number of codes than the backbone has."""
        if self._vq_params is None:
            drawn, known = self.config.visual_size, self.vq_config.codebook_size
            if drawn != known:
                raise UserError(
                    f"{self.folder}: the backbone draws {drawn} visual codes, but the image tokenizer has {known}."
                )
            path = find_vq_weights(self.vq_weights or self.folder, self.config.architecture)
            self._vq_params = read_vq(path, self.config.architecture, abstract_vq(self.vq_config))
        return self._vq_params

    def warn_unknown(self, prompts: Sequence[str]) -> None:
        """Warns of words that the backbone never saw (it draws the unknown word) and of texts without words."""
        for text in prompts:
            if text.strip() and not self.prompts.words(text):
                warnings.warn(f"the model can read no word of {text!r} and draws without a prompt", stacklevel=2)
        for word in dict.fromkeys(word for text in prompts for word in self.prompts.unknown(text)):
            warnings.warn(f"the model does not know the word {word!r}", stacklevel=2)


def load(
    source: str | Path = "emoji",
    dtype: Any = None,
    mesh: Mesh | str | None = None,
    heads: str | Path | None = None,
    vq_weights: str | Path | None = None,
    tokens: Mapping[str, int] | None = None,
) -> Pipeline:
    """Loads a checkpoint.

    Args:
        source: the name of a bundled checkpoint ("emoji"); a folder, in our format or as the models are published,
            which is "./emoji" if it has such a name; or "organisation/name" of the Hugging Face hub.
        dtype: of the parameters and the cache; None is float32 on CPU, bfloat16 elsewhere.
        mesh: over which devices the model is spread: a mesh of `sharding.make_mesh`, or text such as
            "data:2,model:4"; None is one device. Every device is given its own part of the weights alone.
        heads: draft heads, a file, a folder with heads.safetensors or a hub id; None takes the checkpoint's own, if it
            has any.
        vq_weights: the image tokenizer's weights, a file, a folder or a hub id, where the checkpoint lacks them
            (Lumina-mGPT) or they are published by themselves (Emu3-VisionTokenizer). They are read when they are first
            needed.
        tokens: special ids where config.json and tokenizer.json do not tell: "pad", "unk", "bos", "boi", "row_end";
            in prompts of Emu3 "img", of Lumina-mGPT "end" and "size_24".
    Raises:
        UserError: no such checkpoint, files in it that are damaged or do not fit together, heads of another backbone,
            more devices than there are, or so many that the model cannot be split over them.
    """
    folder = find_folder(source)
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    config, vq_config = read_config(folder, tokens)
    mesh = make_mesh(mesh) if isinstance(mesh, str) else mesh
    if mesh is not None:
        check_divides(config, mesh)
    weights = find_weights(folder)
    params = read_backbone(weights, config, place(boxed_backbone(config), mesh), dtype)
    path = folder if heads is None else find_local(heads)
    path = path / "heads.safetensors" if path.is_dir() else path
    drafters = (None, None)
    if heads is not None or path.exists():
        drafters = _read_heads(path, weights, config, dtype, mesh)
    vq_path = None if vq_weights is None else find_local(vq_weights)
    return Pipeline(folder, config, vq_config, params, dtype, *drafters, vq_path, tokens, mesh)


def find_folder(source: str | Path) -> Path:
    """The folder of a checkpoint: a local one, a bundled one, or a download; raises `UserError` if there is none."""
    bundled = sorted(path.name for path in BUNDLED.iterdir()) if BUNDLED.is_dir() else []
    if isinstance(source, str) and source in bundled:
        return BUNDLED / source
    folder = Path(source)
    if folder.is_dir():
        return folder
    if is_hub_id(str(source)):
        return download(str(source))
    known = ", ".join(bundled) or "none"
    raise UserError(f"There is no checkpoint folder {str(source)!r}; bundled checkpoints: {known}.")


def _read_heads(
    path: Path, backbone: Path, config: ModelConfig, dtype: Any, mesh: Mesh | None
) -> tuple[HeadsConfig, Any]:
    """Config and parameters of a heads file; raises `UserError` if they belong to another backbone."""
    heads = read_heads_config(path, backbone)
    return heads, read_tensors(path, place(boxed_heads(heads, config.width), mesh), dtype)


@partial(jax.jit, static_argnames=("config", "grid"))
def _visual_logits(
    params: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array, *, config: ModelConfig, grid: Grid
) -> jax.Array:
    model = Transformer(config)
    return model.apply(params, image_hidden(model, params, ids, mask, codes, grid), method="logits")


@partial(jax.jit, static_argnames="config")
def _to_codes(params: Any, images: jax.Array, *, config: AnyVQConfig) -> jax.Array:
    return vq_model(config).apply(params, to_float(images), method="encode")


@partial(jax.jit, static_argnames="config")
def _to_pixels(params: Any, codes: jax.Array, *, config: AnyVQConfig) -> jax.Array:
    return to_uint8(vq_model(config).apply(params, codes, method="decode"))
