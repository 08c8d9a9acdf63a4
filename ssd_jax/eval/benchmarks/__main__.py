"""python -m ssd_jax.eval.benchmarks: see `ssd_jax.cli.benchmarks`."""

from ssd_jax.cli import entry
from ssd_jax.cli.benchmarks import main

if __name__ == "__main__":
    entry.run(main)
