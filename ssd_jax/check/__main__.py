"""python -m ssd_jax.check: see `ssd_jax.cli.check`."""

from ssd_jax.cli import entry
from ssd_jax.cli.check import main

if __name__ == "__main__":
    entry.run(main)
