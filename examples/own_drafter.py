"""A custom drafter: python examples/own_drafter.py

A drafter guesses; the verifier decides. So any guess is allowed, and with the `match` coupling the image is that of
`ar`, however bad the guess: only the number of passes changes. Here the guess is the left neighbour's code, repeated.
"""

import jax.numpy as jnp

import ssd_jax
from ssd_jax.decode.drafting import DRAFTERS, drafter


@drafter("stubborn")
def stubborn(grid, seen, count):
    """The last seen code for every position; see `ssd_jax.decode.drafting` for the arguments."""
    last = jnp.take_along_axis(seen.tokens, seen.last[:, None], axis=1)
    return jnp.broadcast_to(last, (last.shape[0], count))


if __name__ == "__main__":
    pipe = ssd_jax.load("emoji")
    exact = pipe.generate(["santa claus, noto"], decoder="ar", seed=0)
    for name in DRAFTERS:
        out = pipe.generate(["santa claus, noto"], decoder=ssd_jax.Raster(window=16, drafter=name), seed=0)
        same = "the same image" if (out.tokens == exact.tokens).all() else "another image"
        print(f"{name:10} {out.passes[0]:4} passes, {same}")
