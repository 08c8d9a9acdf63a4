"""python -m ssd_jax.demo: see `ssd_jax.cli.demo`."""

from ssd_jax.cli import entry
from ssd_jax.cli.demo import main

if __name__ == "__main__":
    entry.run(main)
