"""Opens the model that a command line selects with --config, --weights and related options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd_jax.errors import UserError
from ssd_jax.pipeline.loading import find_folder_here, load
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.random_weights import NAME as RANDOM
from ssd_jax.pipeline.random_weights import Random, load_random
from ssd_jax.weights.part_file import HEADS_FILE

RANDOM_NOTE = "The weights are random: seconds are real, images are noise."
"""Note for every use of such a model."""


def open_model(config: Mapping[str, Any], where: str, weights: str | None = None, **options: Any) -> Pipeline:
    """Loads a checkpoint, or makes a model of the config's sizes with random weights.

    Args:
        config: the contents of a config file.
        where: its name, for error messages.
        weights: a bundled name, a folder, a hub id, or "random" ("./random" is a folder); None is the config's own.
        options: options of `pipeline.loading.load`.
    Raises:
        UserError: no weights, weights of another family than the config's, or inconsistent options.
    """
    if weights == RANDOM:
        if options.pop("vq_weights", None):
            raise UserError("--weights=random makes an image tokenizer, too; leave --vq_weights out.")
        refuse_branch(options.pop("branch", None))
        if heads := options.pop("heads", None):
            own = find_folder_here(config["weights"]) if config["weights"] else None
            heads = HEADS_FILE.choose(Path(heads), own)
        return load_random(find_models(config, where, config["weights"], heads), heads=heads, **options)
    source = weights or config["weights"]
    if not source:
        raise UserError(
            f"{where} comes without weights; say where they are with --weights=DIR, or try its sizes with "
            f"--weights={RANDOM}."
        )
    pipe = load(source, **options)
    if weights:
        require_family(config, where, weights, pipe.config.architecture)
    return pipe


def refuse_branch(branch: str | None) -> None:
    """Raises `UserError` if a vertical branch is given for a model with random weights."""
    if branch:
        raise UserError("--branch does not go with --weights=random, whose backbone it was not trained with.")


def require_family(config: Mapping[str, Any], where: str, weights: str, found: str) -> None:
    """Raises `UserError` if weights are `found` to be of another family than a config is for."""
    wanted = config["model"].get("architecture")
    if wanted and found != wanted:
        raise UserError(f"{where} is for checkpoints of {wanted}, but {weights} is one of {found}.")


def is_random(pipe: Pipeline) -> bool:
    """Whether a pipeline's weights are random."""
    return isinstance(pipe.origin, Random)
