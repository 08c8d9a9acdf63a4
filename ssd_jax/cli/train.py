"""Trains a model: python train.py --config=configs/emoji.py [--config.stage=backbone] [--config.seed=1]

Stages are "tokenizer", "backbone" and "heads"; "all" runs them in turn, and "flash" goes on with a vertical branch.
With the config of a published backbone draft heads for it are trained, or a branch (--config.stage=flash):
python train.py --config=configs/emu3.py --config.weights=DIR --config.prompts_file=FILE.
Checkpoints, logs and images go to config.workdir, final models to its folder export/. A run that is started again
resumes.
"""

import contextlib
import sys

from absl import flags
from ml_collections import config_flags

from ssd_jax.cli import entry
from ssd_jax.errors import UserError
from ssd_jax.lock import locked
from ssd_jax.parallel.processes import is_first, together

CONFIG = config_flags.DEFINE_config_file(
    "config", str(entry.CONFIGS / "emoji.py"), "file.py[:variant]", lock_config=True
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of several processes that train heads; or auto")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many there are")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which this is, from 0")


def found_config(arguments: list[str]) -> list[str]:
    """The command line with the path of --config's file; raises `UserError` if there is none."""
    found = []
    for argument in arguments:
        name, _, spec = argument.partition("=")
        if name in ("--config", "-config") and spec:
            argument = f"{name}={entry.find_config(spec)}{''.join(spec.partition(':')[1:])}"
        found.append(argument)
    return found


def main() -> None:
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        print("Settings are those of the config file, as --config.NAME=VALUE; configs are listed for an unknown one.")
        print(flags.FLAGS.module_help(sys.modules[__name__]))
        return
    try:
        extra = flags.FLAGS([sys.argv[0], *found_config(sys.argv[1:])])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        said = str(error.args[0] if error.args else error).strip().splitlines()
        raise UserError(f"The command line cannot be used: {said[-1]}") from None
    if extra:
        raise UserError(f"The command line cannot be used: unexpected {extra[0]!r}; options start with --config.")
    config = CONFIG.value
    if "architecture" not in config.get("model", {}):  # that of the bundled model
        if COORDINATOR.value or NUM_PROCESSES.value is not None or PROCESS_ID.value is not None:
            raise UserError("Several processes train draft heads and branches of published backbones, not this config.")
        from ssd_jax.recipes import emoji, emoji_spec  # after the flags, so that --help is fast

        spec = emoji_spec.EmojiSpec.parse(config)
        with locked(spec.workdir):
            export = emoji.run(spec)
        more = " --decoder=flash" if spec.stages == (emoji_spec.FLASH,) else ""
        print(f"The model is in {export}; draw with it: {entry.drawing_command()} --weights={export}{more}")
        return
    from ssd_jax.recipes import published, published_spec

    spec = published_spec.PublishedSpec.parse(config)
    entry.use_devices(spec.mesh or "", COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    with contextlib.ExitStack() as held:
        together("workdir", lambda: held.enter_context(locked(spec.workdir)))  # one run, of any number of processes
        export = published.run(spec)
    if is_first():
        print(spec.report.read_text(encoding="utf-8"))
        what, options = published.result(spec, export)
        print(f"{what} in {export}; draw with it: {entry.drawing_command()} {options}")


def console() -> None:
    """The command ssd-train."""
    entry.run(main)
