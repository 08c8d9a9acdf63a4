"""Draws images: python sample.py --prompt="red apple, noto" --decoder=ssd-exact

The code is in ssd_jax/cli/sample.py; an installed package has it as the command ssd-sample.
"""

from ssd_jax.cli import entry
from ssd_jax.cli.sample import main

if __name__ == "__main__":
    entry.run(main)
