"""python -m ssd_jax.bench: see `ssd_jax.cli.bench`."""

from ssd_jax.cli import entry
from ssd_jax.cli.bench import main

if __name__ == "__main__":
    entry.run(main)
