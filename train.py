"""Trains a model: python train.py --config=configs/emoji.py

The code is in ssd_jax/cli/train.py; an installed package has it as the command ssd-train.
"""

from ssd_jax.cli import entry
from ssd_jax.cli.train import main

if __name__ == "__main__":
    entry.run(main)
