"""What every decoder is given and what it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax

from ssd_jax.cache import KVCache


class Functions(NamedTuple):
    """The model as a decoder sees it; B is the number of images, G = 2B with guidance (conditional rows first), else B.

    Attributes:
        verify: (cache, codes int32 [B, W], positions int32 [B, W]) -> (hidden [G, W, D], cache). One verifier pass
            over a window whose inputs are the tokens at `positions`; hidden[:, w] predicts position
            `positions[:, w] + 1`. The window is written to the cache, then attended to causally.
        log_p: hidden [G, W, D] -> log p, float32 [B, W, V], guidance and filters applied.
        noise: positions int32 [B, W] -> keyed Gumbel noise g, float32 [B, W, V].
    """

    verify: Callable[[KVCache, jax.Array, jax.Array], tuple[jax.Array, KVCache]]
    log_p: Callable[[jax.Array], jax.Array]
    noise: Callable[[jax.Array], jax.Array]


@flax.struct.dataclass
class Decoded:
    """What a decoder returns.

    Attributes:
        tokens: int32 [B, R*C], the pictures.
        passes: int32 [B], verifier passes made for each image, prefill included.
        trace: int32 [B, R*C], the pass (from 1, the prefill) in which each token became final.
        cache: the cache, so that its buffer can be used again.
    """

    tokens: jax.Array
    passes: jax.Array
    trace: jax.Array
    cache: Any
