"""A backbone and its draft heads as the verifier of a decoder."""

from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax.cache import KVCache
from ssd_jax.decode.verifier import Offsets, Verifier
from ssd_jax.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.masks import causal, row
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.heads import DraftHeads
from ssd_jax.models.layers import whole
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sampling import Sampler, guide, gumbel_noise, log_probabilities, position_keys


class BoundVerifier(Verifier):
    """A model over windows of a grid, behind given prompts.

    Args:
        model, params: the backbone.
        grid: R and C.
        prompt_mask: bool [G, S].
        keys: the images' keys, [B].
        sampler: the knobs of p.
        guided: whether there are unconditional rows.
        heads, heads_params: the draft heads; None without.
        limit: see `Verifier`.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        grid: Grid,
        prompt_mask: jax.Array,
        keys: jax.Array,
        sampler: Sampler,
        guided: bool,
        heads: HeadsConfig | None = None,
        heads_params: Any = None,
        limit: jax.Array | None = None,
    ):
        self.model, self.params, self.image_keys = model, params, keys
        self.sampler, self.guided, self.limit = sampler, guided, limit
        self.starts, self.prompt = prompt_starts(prompt_mask), prompt_mask.shape[1]
        self.layout = layout_of(model.config, grid)
        self.heads, self.heads_params = heads, heads_params
        if heads is not None:
            self.horizontal, self.vertical, self.context = heads.horizontal, heads.vertical, heads.context

    def both(self, x: jax.Array) -> jax.Array:
        """[B, ...] -> [G, ...]: the guided rows of an image see the same window."""
        x = whole(x)
        return jnp.concatenate([x, x]) if self.guided else x

    def apply(self, *arguments: Any, method: str) -> Any:
        """A method of the backbone."""
        return self.model.apply(self.params, *arguments, method=method)

    def verify(
        self,
        cache: KVCache,
        codes: jax.Array,
        positions: jax.Array,
        committed: jax.Array | None = None,
        ends: int | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """See `Verifier`."""
        layout, starts, S = self.layout, self.starts, self.prompt
        x, positions = self.both(self.embed(codes)), self.both(positions)
        places, outputs = positions, None
        if layout.row_ends:
            places, outputs = layout.window(positions, ends)
            row_end = self.apply(self.model.config.row_end_id, method="embed")
            spare = (x.shape[0], places.shape[1] - x.shape[1], x.shape[2])
            x = jnp.concatenate([x, jnp.broadcast_to(row_end, spare)], axis=1)
        slots = places + S
        if committed is None:
            mask = causal(slots, starts, cache.length)
        else:
            mask = row(slots, starts, self.both(layout.places(committed)) + S, S, layout.pitch, cache.length)
        with jax.named_scope("verify"):
            hidden, cache = self.apply(x, rotary_positions(slots, starts), mask, slots, cache, method="hidden")
        if outputs is not None:
            hidden = jnp.take_along_axis(hidden, outputs[..., None], axis=1)
        return hidden, cache

    def log_p(self, hidden: jax.Array) -> jax.Array:
        """See `Verifier`."""
        logits = self.apply(hidden, method="logits")
        with jax.named_scope("sampling"):
            return log_probabilities(whole(guide(logits, self.sampler.cfg_scale, self.guided)), self.sampler)

    def noise(self, positions: jax.Array) -> jax.Array:
        """See `Verifier`."""
        return gumbel_noise(self.image_keys, positions, self.model.config.visual_size)

    def keys(self, positions: jax.Array) -> jax.Array:
        """See `Verifier`."""
        return position_keys(self.image_keys, positions)

    def embed(self, codes: jax.Array) -> jax.Array:
        """See `Verifier`."""
        return self.apply(codes, method="embed_codes")

    def draft(
        self, hidden: jax.Array, codes: jax.Array, columns: jax.Array, offsets: Offsets, count: int | None = None
    ) -> jax.Array:
        """See `Verifier`."""
        which = tuple(self.heads.offsets.index(offset) for offset in offsets)
        config, both = self.model.config, self.both
        with jax.named_scope("heads"):
            drafter = DraftHeads(self.heads, config.width, config.norm_eps)
            out = drafter.apply(self.heads_params, hidden, both(self.embed(codes)), both(columns), which)
            out = jnp.moveaxis(out, 0, 1)[:, :, :count]
        log_q = self.log_p(out.reshape(out.shape[0], -1, out.shape[-1]))
        return log_q.reshape(log_q.shape[0], len(offsets), -1, log_q.shape[-1])
