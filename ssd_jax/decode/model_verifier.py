"""Implements a decoder's verifier with a backbone and what was trained beside it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, Shaped

from ssd_jax.decode.state import gather
from ssd_jax.decode.verifier import Beside, Offsets, Verifier, Watch
from ssd_jax.models.layers import replicated
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.transformer import layout_of
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.distribution import Sampler, guide, log_probabilities
from ssd_jax.sampling.noise import gumbel_noise, position_keys
from ssd_jax.sequence.cache import KVCache
from ssd_jax.sequence.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.sequence.masks import among, before, causal, row, row_causal


@flax.struct.dataclass
class Draw:
    """Keys and sampling parameters of a batch.

    Attributes:
        keys: the images' keys, [B].
        sampler: the sampling parameters.
        limit: int32, passes after which decoding stops, the prefill included; tokens that are not final by then are
            drafts or 0. None: stop when all images are finished.
        given: int32 [B, R*C], codes of tokens that are not drawn, -1 where they are. None: all are drawn.
        every: int32, after how many passes each time the loop's watch sees it; None without one.
    """

    keys: Any
    sampler: Sampler
    limit: Any = None
    given: Any = None
    every: Any = None


class BoundVerifier(Verifier):
    """A model bound to prompts and a grid.

    Args:
        model: the backbone, and what was trained beside it.
        prompts: the CFG batch of prompts.
        draw: keys and sampling parameters.
        grid: R and C.
        watch: see `Verifier`.
    """

    def __init__(self, model: LoadedModel, prompts: PromptBatch, draw: Draw, grid: Grid, watch: Watch | None = None):
        self.model, self.draw, self.guided = model, draw, prompts.guided
        self.starts, self.prompt = prompt_starts(jnp.asarray(prompts.mask)), prompts.mask.shape[1]
        self.layout = layout_of(model.config, grid)
        self.row_ends = self.layout.row_ends
        self.limit, self.watch, self.every = draw.limit, watch, 1 if draw.every is None else draw.every
        if model.heads is not None:
            config = model.heads.config
            self.horizontal, self.vertical, self.context = config.horizontal, config.vertical, config.context

    def cfg_batch(self, x: Shaped[Array, " B *rest"]) -> Shaped[Array, " G *rest"]:
        """Repeats x for the CFG batch: the conditional and unconditional rows of an image see the same window."""
        x = replicated(x)
        return jnp.concatenate([x, x]) if self.guided else x

    def verify(
        self,
        cache: KVCache,
        codes: Int32[Array, "B W"],
        positions: Int32[Array, "B W"],
        committed: Int32[Array, " B"] | None = None,
        ends: int | None = None,
        beside: Beside | None = None,
    ) -> tuple[Float[Array, "G fed D"], KVCache]:
        """See `Verifier`."""
        layout, starts, S = self.layout, self.starts, self.prompt
        x, positions = self.cfg_batch(self._input(codes, positions)), self.cfg_batch(positions)
        places, outputs = positions, None
        if layout.row_ends:
            places, outputs = layout.window(positions, ends)
            row_end = self.model.apply(self.model.config.row_end_id, method="embed")
            spare = (x.shape[0], places.shape[1] - x.shape[1], x.shape[2])
            x = jnp.concatenate([x, jnp.broadcast_to(row_end, spare)], axis=1)
        slots = places + S
        if committed is None:
            mask = causal(slots, starts, cache.length)
        else:
            mask = row(slots, starts, self.cfg_batch(layout.places(committed)) + S, S, layout.pitch, cache.length)
        rotary, fed = rotary_positions(slots, starts), slots.shape[1]
        if beside is not None:
            instead = layout.places(self.cfg_batch(beside.positions)) + S
            x = jnp.concatenate([x, self.cfg_batch(self._input(beside.codes, beside.positions))], axis=1)
            rotary = jnp.concatenate([rotary, rotary_positions(instead, starts)], axis=1)
            limit = instead if beside.before is None else layout.places(self.cfg_batch(beside.before)) + S
            mask = jnp.concatenate([mask, before(limit, starts, cache.length)], axis=1)
            if beside.sees is not None:
                mask = jnp.concatenate([mask, among(beside.sees, mask.shape)], axis=2)
        with jax.named_scope("verify"):
            hidden, cache = self.model.apply(x, rotary, mask, slots, cache, method="hidden")
        if outputs is not None:
            window = jnp.take_along_axis(hidden, outputs[..., None], axis=1)
            hidden = window if beside is None else jnp.concatenate([window, hidden[:, fed:]], axis=1)
        return hidden, cache

    def verify_rows(
        self,
        cache: KVCache,
        codes: Int32[Array, "B W"],
        positions: Int32[Array, "B W"],
        leads: Bool[Array, "B W"],
        counts: Int32[Array, "B R"],
    ) -> tuple[Float[Array, "G W D"], KVCache]:
        """See `Verifier`."""
        layout, starts, S = self.layout, self.starts, self.prompt
        x, places = self._input(codes, positions), self._places(positions)
        if layout.row_ends:
            row_end = self.model.apply(self.model.config.row_end_id, method="embed")
            x, places = jnp.where(leads[..., None], row_end, x), places + leads.astype(jnp.int32)
        slots = self.cfg_batch(places) + S
        mask = row_causal(slots, starts, self.cfg_batch(counts), S, layout.pitch, layout.grid.cols, cache.length)
        with jax.named_scope("verify"):
            rotary = rotary_positions(slots, starts)
            return self.model.apply(self.cfg_batch(x), rotary, mask, slots, cache, method="hidden")

    def verify_diagonal(
        self, cache: KVCache, codes: Int32[Array, "B W"], positions: Int32[Array, "B W"]
    ) -> tuple[Float[Array, "G W D"], Float[Array, "G W D"], KVCache]:
        """See `Verifier`."""
        layout, model = self.layout, self.model
        x, positions = self.cfg_batch(self._input(codes, positions)), self.cfg_batch(positions)
        slots = self._places(positions) + self.prompt
        right, below, written = model.forked.hidden(model.both, x, slots, self.starts, self.prompt, layout, cache)
        assert written is not None
        return right, below, written

    def log_p_between(
        self, left: Float[Array, "G W D"], above: Float[Array, "G W D"], positions: Int32[Array, "B W"]
    ) -> Float32[Array, "B W V"]:
        """See `Verifier`."""
        logits = self.logits_between(left, above, positions)
        with jax.named_scope("sampling"):
            return self.constrain(self._distribution(logits), positions)

    def logits_between(
        self, left: Float[Array, "G W D"], above: Float[Array, "G W D"], positions: Int32[Array, "B W"]
    ) -> Float32[Array, "G W V"]:
        """The logits of `log_p_between`, before guidance and filters."""
        positions, cols = self.cfg_batch(positions), self.layout.grid.cols
        return self.model.forked.logits(self.model.both, left, above, positions, cols)[0]

    def log_p(self, hidden: Float[Array, "G W D"]) -> Float32[Array, "B W V"]:
        """See `Verifier`."""
        logits = self.model.apply(hidden, method="logits")
        with jax.named_scope("sampling"):
            return self._distribution(logits)

    def _distribution(self, logits: Float32[Array, "G W V"]) -> Float32[Array, "B W V"]:
        sampler = self.draw.sampler
        return log_probabilities(replicated(guide(logits, sampler.cfg_scale, self.guided)), sampler)

    def constrain(self, log_p: Float32[Array, "B W V"], positions: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """See `Verifier`."""
        if self.draw.given is None:
            return log_p
        code = self._given(positions)[..., None]
        certain = jnp.where(jnp.arange(log_p.shape[-1], dtype=jnp.int32)[None, None] == code, 0.0, -jnp.inf)
        return jnp.where(code < 0, log_p, certain)

    def place(self, codes: Int32[Array, "B W"], positions: Int32[Array, "B W"]) -> Int32[Array, "B W"]:
        """See `Verifier`."""
        if self.draw.given is None:
            return codes
        code = self._given(positions)
        return jnp.where(code < 0, codes, code)

    def _input(self, codes: Int32[Array, "B W"], positions: Int32[Array, "B W"]) -> Float[Array, "B W D"]:
        return self.model.apply(codes, positions, self.layout.grid.cols, method="embed_image")

    def _places(self, positions: Int32[Array, "B W"]) -> Int32[Array, "B W"]:
        """Places of positions; those of padding are past the image."""
        return jnp.where(positions < self.layout.grid.size, self.layout.places(positions), self.layout.length)

    def _given(self, positions: Int32[Array, "B W"]) -> Int32[Array, "B W"]:
        return jnp.where(positions < self.layout.grid.size, gather(self.draw.given, positions), -1)

    def noise(self, positions: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """See `Verifier`."""
        return gumbel_noise(self.draw.keys, positions, self.model.config.visual_size)

    def keys(self, positions: Int32[Array, "B W"]) -> Key[Array, "B W"]:
        """See `Verifier`."""
        return position_keys(self.draw.keys, positions)

    def embed(self, codes: Int32[Array, "*codes"]) -> Float[Array, "*codes D"]:
        """See `Verifier`."""
        return self.model.apply(codes, method="embed_codes")

    def draft(
        self,
        hidden: Float[Array, "G X D"],
        codes: Int32[Array, "B X"],
        columns: Int32[Array, "B X"],
        offsets: Offsets,
        count: int | None = None,
    ) -> Float32[Array, "B O drafted V"]:
        """See `Verifier`."""
        heads = self.model.heads
        assert heads is not None
        which = tuple(heads.config.offsets.index(offset) for offset in offsets)
        with jax.named_scope("heads"):
            out = heads.predict(hidden, self.cfg_batch(self.embed(codes)), self.cfg_batch(columns), which)
            out = jnp.moveaxis(out, 0, 1)[:, :, :count]
        log_q = self.log_p(out.reshape(out.shape[0], -1, out.shape[-1]))
        return log_q.reshape(log_q.shape[0], len(offsets), -1, log_q.shape[-1])
