"""Whether the settings of a stage can be used, asked before the first stage begins."""

import importlib.util
from typing import Any

from ssd_jax.errors import UserError, require_number, require_one_of, require_whole
from ssd_jax.models.products import PRODUCTS

COUNTS = {
    "steps": 1,
    "batch": 1,
    "accumulation": 1,
    "save_every": 1,
    "log_every": 1,
    "eval_images": 1,
    "warmup": 0,
    "continuous_steps": 0,
    "code_noise_from": 0,
}
"""Whole numbers of a stage -> the least that each may be."""

SHARES = ("decay", "caption_drop", "style_drop", "word_drop", "code_noise", "code_blind")
"""Numbers from 0 to 1."""

POSITIVE = ("lr", "clip")

NOT_NEGATIVE = ("weight_decay", "gradient_weight")


def require_plots() -> None:
    """Raises `UserError` without the package that draws the loss curves: at the end of a stage it would be too late."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('matplotlib, which draws the loss curves, is missing: pip install "ssd_jax[train]".')


def require_stage(name: str, stage: Any, least_steps: int = 1) -> None:
    """Raises `UserError`, which names the setting, for one that no training can use.

    Args:
        name: of the stage in the config, for the message.
        stage: its section, of which the settings that it has are looked at.
        least_steps: 0 for a stage that may be left out.
    """
    for key, least in (COUNTS | {"steps": least_steps}).items():
        if key in stage:
            require_whole(f"config.{name}.{key}", stage[key], least)
    for key in (*SHARES, *POSITIVE, *NOT_NEGATIVE, "b2"):
        if key not in stage:
            continue
        value = stage[key]
        require_number(f"config.{name}.{key}", value)
        if key in POSITIVE and value <= 0:
            raise UserError(f"config.{name}.{key} must be above 0, not {value}.")
        if key == "b2" and not 0 <= value < 1:
            raise UserError(f"config.{name}.{key} must lie between 0 and 1, not {value}.")
        if value < 0 or key in SHARES and value > 1:
            wanted = "lie between 0 and 1" if key in SHARES else "be at least 0"
            raise UserError(f"config.{name}.{key} must {wanted}, not {value}.")
    if "matmul" in stage:
        require_one_of(f"config.{name}.matmul", stage.matmul, tuple(PRODUCTS))
    if stage.batch % stage.get("accumulation", 1):
        raise UserError(
            f"config.{name}.batch ({stage.batch}) must be a multiple of its accumulation ({stage.accumulation})."
        )
