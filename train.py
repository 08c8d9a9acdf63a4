"""Trains a model: python train.py --config=configs/emoji.py [--config.stage=backbone] [--config.seed=1]

Stages are "tokenizer", "backbone" and "heads"; "all" runs one after the other. Checkpoints, logs and pictures go to
config.workdir, the finished model to its folder export/. Started again, a run goes on where it was.
"""

import sys

from absl import flags
from ml_collections import config_flags

from ssd_jax import entry
from ssd_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji.py", "file.py[:variant]", lock_config=True)


def main() -> None:
    try:
        flags.FLAGS(sys.argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"The command line cannot be used: {str(error).splitlines()[0]}") from None
    from ssd_jax.training import stages  # after the flags, so that --help is quick

    export = stages.run(CONFIG.value)
    print(f"The model is in {export}; draw with it: python sample.py --weights={export}")


if __name__ == "__main__":
    entry.run(main)
