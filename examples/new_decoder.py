"""A custom decoder: python examples/new_decoder.py

`Lawn` resamples every token of the image in each of a few passes, with the noise that `ar` would use: Jacobi iteration
from scratch. With as many sweeps as there are tokens it is `ar`; with a few it shows intermediate images.
"""

import dataclasses

import jax.numpy as jnp

import ssd_jax
from ssd_jax.decode.base import Decoder, register
from ssd_jax.decode.cost import PREFILL, Stretch
from ssd_jax.decode.state import Decoded, first_token, gather
from ssd_jax.sampling.choice import choose


@register
@dataclasses.dataclass(frozen=True)
class Lawn(Decoder):
    """Jacobi iteration over all tokens; the only option is the number of sweeps."""

    sweeps: int = 3

    def stretches(self, grid, horizontal=0, passes=None):
        """Pass cost: the prefill, then passes over all tokens."""
        return PREFILL, Stretch(self.sweeps, window=grid.size, outputs=grid.size)

    def run(self, verifier, cache, hidden, grid):
        """Decodes all tokens, from the hidden state after the prompt."""
        tokens, trace, _ = first_token(verifier, hidden, grid.size)
        inputs = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32), tokens.shape)
        for _ in range(self.sweeps):
            states, cache = verifier.verify(cache, gather(tokens, inputs), inputs)
            drawn = choose(verifier.log_p_at(states, inputs + 1), verifier.noise(inputs + 1))
            tokens = jnp.concatenate([tokens[:, :1], drawn[:, :-1]], axis=1)
        done = jnp.full_like(trace[:, 0], 1 + self.sweeps)
        return Decoded(tokens, done, jnp.where(inputs == 0, 1, done[:, None]), cache)


if __name__ == "__main__":
    pipe = ssd_jax.load("emoji")
    exact = pipe.generate(["santa claus, noto"], decoder="ar", seed=0)
    for sweeps in (1, 4, 16):
        out = pipe.generate(["santa claus, noto"], decoder=Lawn(sweeps), seed=0)
        same = (out.tokens == exact.tokens).mean()
        print(f"{sweeps:2} sweeps: {out.passes[0]} passes, {same:.0%} of the tokens are those of ar")
