"""Trains a model: python train.py --config=configs/emoji.py [--config.stage=backbone] [--config.seed=1]

Stages are "tokenizer", "backbone" and "heads"; "all" runs one after the other. Checkpoints, logs and pictures go to
config.workdir, the finished model to its folder export/. Started again, a run goes on where it was.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from ssd_jax import entry
from ssd_jax.errors import UserError

CONFIGS = Path(__file__).parent / "configs"
CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji.py", "file.py[:variant]", lock_config=True)


def check_config(arguments: list[str]) -> None:
    """Raises `UserError` if --config names no file; the flag's own message leaves the name out."""
    for argument in arguments[1:]:
        name, _, spec = argument.partition("=")
        if name in ("--config", "-config") and spec and not Path(spec.partition(":")[0]).is_file():
            raise entry.unknown_config(spec, CONFIGS)


def main() -> None:
    try:
        check_config(sys.argv)
        extra = flags.FLAGS(sys.argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        said = str(error.args[0] if error.args else error).strip().splitlines()
        raise UserError(f"The command line cannot be used: {said[-1]}") from None
    if extra:
        raise UserError(f"The command line cannot be used: unexpected {extra[0]!r}; options start with --config.")
    if "stage" not in CONFIG.value:
        raise UserError("This config has no stages to train; it is for sample.py.")
    from ssd_jax.training import stages  # after the flags, so that --help is quick

    export = stages.run(CONFIG.value)
    print(f"The model is in {export}; draw with it: python sample.py --weights={export}")


if __name__ == "__main__":
    entry.run(main)
