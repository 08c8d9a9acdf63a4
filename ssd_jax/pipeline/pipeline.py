"""Defines `Pipeline`, a loaded model that turns prompts into images."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssd_jax.backbones.prompting import grid_of
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.decode.presets import PRESETS, find_decoder, require_fits, require_heads
from ssd_jax.errors import LARGEST, UserError, require_whole
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.vq_models import AnyVQConfig
from ssd_jax.pipeline.aliases import GENERATE, accepts
from ssd_jax.pipeline.batches import batches
from ssd_jax.pipeline.description import Described
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.given_images import visual_logits, visual_nll
from ssd_jax.pipeline.images import Pictures
from ssd_jax.pipeline.inpainting import given_codes
from ssd_jax.pipeline.origin import Origin
from ssd_jax.pipeline.programs import Programs
from ssd_jax.pipeline.progress import Preview, Previews
from ssd_jax.pipeline.request import Output, guidance_of, images_of_call, require_prompt, sampler_of
from ssd_jax.pipeline.streaming import Stream


class Pipeline(Described):
    """A backbone, its image tokenizer and its prompts. Made by `load`.

    Attributes:
        origin: source of the weights, and of everything that is read on first use.
        model: the backbone and what was trained beside it, with their weights.
        vq_config: the image tokenizer's config.
        execution: dtype, devices and attention. The image tokenizer is on one device.
        pictures: the image tokenizer.
        programs: the model's compiled programs.
    """

    def __init__(self, origin: Origin, model: LoadedModel, vq_config: AnyVQConfig, execution: Execution):
        self.origin, self.model, self.vq_config, self.execution = origin, model, vq_config, execution
        self.pictures = Pictures(origin, model.config, vq_config)
        self.programs = Programs(model, execution)

    @accepts(GENERATE)
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
        max_passes: int | None = None,
        image: Any = None,
        mask: Any = None,
        progress: Callable[[Preview], None] | None = None,
        every: int = 16,
    ) -> Output:
        """Draws `num_images` images of every prompt. Arguments may have the names in `pipeline.aliases.GENERATE`.

        Args:
            prompts: one or more texts.
            decoder: a preset's name or a decoder dataclass.
            num_images: images per prompt.
            seed: one for all prompts, or one for each. The noise of (prompt, seed) does not depend on what else is in
                the call, nor does the image where products have the same bits in every batch (bfloat16 on a CPU);
                equal prompts are numbered and differ.
            cfg_scale: classifier-free guidance scale, from -1000 to 1000, so that logits stay finite; None is the
                model's own default, 1 turns guidance off and halves the work.
            temperature: 0 takes the most likely code everywhere; otherwise from 0.001 to 1000, the range of float32.
            top_k, top_p: keep the k most likely codes, or the most likely ones up to this mass; None is the model's
                default (top_k) or off (top_p). top_k 0 is off. The most likely code is always kept.
            negative_prompt: text that guidance steers away from; None is the model's own: Emu3's published text,
                otherwise no prompt. The other published models were not trained with one.
            size: (height, width) of the images in pixels, or text: "512x768", height first, or, for Emu3 and Emu3.5, an
                aspect ratio "16:9", width first. None is the size the model was trained on.
            max_batch: the most images to decode at once; None decodes all together. On a mesh it is rounded up to fill
                the data axis.
            pixels: False returns tokens only, and needs no image tokenizer, unless an image is given.
            image, mask: for in-painting: an image of the size to draw, and where to draw anew; the tokens elsewhere
                are the image's (see `pipeline.inpainting.given_codes`).
            progress: a function that is called with a `Preview` after every `every` passes, and at the end of a batch
                unless its last pass was one of these or `max_passes` ended it. It may be called in another thread, must
                not compute with JAX (`stream` is for that), and the drawing waits for it: a quarter of a millisecond on
                a CPU, and its own time. What it raises ends the drawing, and is raised here. Programs that show their
                progress are compiled apart, and not kept on disk.
            every: see `progress`.
            max_passes: stop after this many passes, the prefill included; tokens not final by then are drafts or 0.
        Raises:
            UserError: a value out of range or of another type, an unknown decoder, a window larger than the image,
                draft heads, a branch or a file that is missing, a batch that does not fit in memory, too many images.
        """
        texts, seeds, numbers = images_of_call(prompts, num_images, seed)
        decoder = find_decoder(decoder)
        self.require(decoder, size)
        scale = guidance_of(self.config, cfg_scale)
        sampler = sampler_of(self.config, scale, temperature, top_k, top_p)
        guided = scale != 1.0
        max_batch = require_whole("max_batch", len(texts) if max_batch is None else max_batch, 1, None)
        if max_passes is not None:
            max_passes = min(require_whole("max_passes", max_passes, 1, None), LARGEST)  # an int32 in the program
        require_prompt("" if negative_prompt is None else negative_prompt, "negative_prompt")
        grid = grid_of(self.config, size, self.vq_config.stride)
        frames, negatives = zip(*(self.prompts.pair(text, negative_prompt, grid) for text in texts), strict=True)
        if pixels:
            self.pictures.params  # noqa: B018 - a damaged file is reported before the work, not after it
        batch = self.execution.whole_rows(min(len(texts), max_batch), guided)
        limit, given = (
            None if max_passes is None else jnp.int32(max_passes),
            given_codes(self.pictures, grid, image, mask),
        )
        every = require_whole("every", every, 1, LARGEST)
        between = None if progress is None else jnp.int32(every)
        shown = None if progress is None else Previews(self.pictures, grid, len(texts), given, progress)
        given = None if given is None else np.tile(given, (batch, 1))
        parts = batches(frames, negatives if guided else None, seeds, numbers, batch, self.config.pad_id)
        decoded = []
        for number, (batched, keys) in enumerate(parts):
            told = None if shown is None else shown.of_batch(number * batch)
            done = self.programs.decode(batched, Draw(keys, sampler, limit, given, between), decoder, grid, told)
            if shown is not None and done.passes.max() < (max_passes or LARGEST):
                shown.finished(number * batch, done.tokens, int(done.passes.max()))
            decoded.append(done)
        *arrays, seconds, compile_seconds = zip(*decoded, strict=True)
        tokens, passes, trace = (np.concatenate(part)[: len(texts)] for part in arrays)
        if given is not None:  # those behind `max_passes` are not there yet
            tokens = np.where(given[:1] < 0, tokens, given[:1])
        shape = (-1, grid.rows, grid.cols)
        tokens = tokens.reshape(shape)
        parts = [tokens[start : start + batch] for start in range(0, len(tokens), batch)] if pixels else []
        images = [Image.fromarray(picture) for part in parts for picture in self.decode(part)]
        spent = sum(seconds), sum(compile_seconds)
        return Output(images, tokens, passes, trace.reshape(shape), *spent, texts, seeds, numbers)

    def stream(self, *arguments: Any, **options: Any) -> Stream:
        """Draws what `generate` draws with the same arguments, and shows it after every `every` passes: iterate over
        the result for a `Preview` each; afterwards its `output` is what `generate` returns. A `UserError` is raised
        when the first one is asked for."""
        if "progress" in options:
            raise UserError("stream has no argument progress; it gives previews itself.")
        return Stream(lambda show: self.generate(*arguments, progress=show, **options))

    def decoders(self) -> list[str]:
        """Names of the presets this checkpoint can run."""
        return [name for name, decoder in PRESETS.items() if decoder.runs_with(*self.head_counts)]

    def require(self, decoder: Decoder, size: tuple[int, int] | str | None = None) -> None:
        """Raises `UserError` if the decoder needs draft heads or a branch that are missing, or a larger image."""
        require_heads(decoder, *self.head_counts)
        require_fits(decoder, grid_of(self.config, size, self.vq_config.stride))

    def visual_logits(
        self,
        prompt_ids: np.ndarray,
        codes: np.ndarray,
        grid: tuple[int, int] | None = None,
        prompt_mask: np.ndarray | None = None,
    ) -> jax.Array:
        """The logits that predict each code from the prompt and all earlier codes.

        The result holds all logits: 1.06 GB for an image of Emu3. `visual_nll` keeps one number per code instead.

        Args:
            prompt_ids: int32 [B, S], taken verbatim.
            codes: int32 [B, R*C].
            grid: (R, C); None is the model's own.
            prompt_mask: bool [B, S], False on (left) padding; None is all True.
        Returns:
            float32 [B, R*C, V].
        Raises:
            UserError: arrays of other shapes; codes that do not fill the grid; ids or codes the model does not have.
        """
        return self.programs.read(visual_logits, prompt_ids, codes, grid, prompt_mask)

    def visual_nll(
        self,
        prompt_ids: np.ndarray,
        codes: np.ndarray,
        grid: tuple[int, int] | None = None,
        prompt_mask: np.ndarray | None = None,
        cfg_scale: float = 1.0,
    ) -> jax.Array:
        """-log p of each code given the prompt and all earlier codes, in nats, at temperature 1 and without filters.

        Args:
            prompt_ids, prompt_mask: as for `visual_logits`; if `cfg_scale` is not 1 they are a CFG batch [2B, S], the
                unconditional prompts after the others.
            codes, grid: as for `visual_logits`.
            cfg_scale: guidance; 1 is the plain conditional distribution.
        Returns:
            float32 [B, R*C].
        Raises:
            UserError: as `visual_logits`; a `cfg_scale` that `generate` would not take.
        """
        scale = guidance_of(self.config, cfg_scale)
        guided = scale != 1.0
        rows = np.concatenate([codes, codes]) if guided and np.ndim(codes) else codes
        return self.programs.read(visual_nll, prompt_ids, rows, grid, prompt_mask, jnp.float32(scale), guided=guided)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [B, H, W, 3] to codes int32 [B, R, C]."""
        return self.pictures.encode(images)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int32 [B, R, C] to images uint8 [B, H, W, 3]."""
        return self.pictures.decode(codes)

    @cached_property
    def prompts(self) -> Any:
        """Turns texts into ids; read on first use, so that a folder without tokenizer.json loads."""
        return self.origin.prompts(self.config)
