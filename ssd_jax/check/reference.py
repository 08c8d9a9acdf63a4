"""What transformers makes of a checkpoint folder, in a process of its own (`transformers_process`).

Its memory is free again when it has answered.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ssd_jax.bench.torch_process import require_packages, run_process
from ssd_jax.check.folder import Found, tokenizer_places
from ssd_jax.check.task import GRID, Task
from ssd_jax.errors import UserError
from ssd_jax.models.config_json import read_json
from ssd_jax.weights.load import CONFIG_NAME

MODULE = "ssd_jax.check.transformers_process"
WHAT = "The comparison with transformers"

READS = {
    "emu3": ("emu3",),
    "emu3_5": ("Emu3",),
    "chameleon": ("chameleon", "chameleon_xllmx"),
    "janus": ("janus",),
}
"""Family -> what `model_type` of config.json says in a folder that transformers' own class reads."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What `transformers_process.answer` returns and writes.

    Attributes:
        ids: special ids by field of `ModelConfig`, as far as transformers knows any.
        versions: of torch and transformers.
        arrays: by name.
    """

    ids: dict[str, int]
    versions: dict[str, str]
    arrays: dict[str, np.ndarray]


def require_reference(found: Found) -> None:
    """Raises `UserError` if transformers is not installed, or does not read a folder of this layout."""
    if read_json(found.folder / CONFIG_NAME).get("model_type") not in READS[found.config.architecture]:
        raise UserError(
            f"transformers does not read {found.folder}, which has another layout than its own; name a folder of the "
            "same model in transformers' layout with --reference=DIR."
        )
    require_packages(WHAT)


def ask(found: Found, task: Task) -> Answer:
    """Runs transformers on a folder. Its image tokenizer is left out where the folder has none under names that
    transformers knows.

    Raises:
        UserError: its process failed, or it misses tensors in the folder.
    """
    config = dataclasses.replace(found.config, layers=task.layers, rows=GRID.rows, cols=GRID.cols)
    with tempfile.TemporaryDirectory(prefix="ssd_jax_check_") as scratch:
        path = Path(scratch) / "arrays.safetensors"
        job: dict[str, Any] = dict(
            folder=str(found.folder.resolve()),
            model=dataclasses.asdict(config),
            dtype=task.dtype,
            prompt=task.prompt,
            codes=task.codes[0].tolist(),
            image=task.image.tolist(),
            tokenizer=tokenizer_places(found),
            out=str(path),
        )
        said = run_process(MODULE, job, WHAT)
        if said["missing"]:
            count = len(said["missing"])
            raise UserError(f"transformers misses {count} tensors in {found.folder}, such as {said['missing'][0]!r}.")
        arrays = load_file(path)
    return Answer({name: id for name, id in said["ids"].items() if id is not None}, said["versions"], arrays)
