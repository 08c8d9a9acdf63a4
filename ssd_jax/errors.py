"""Defines `UserError` and the checks of options that raise it."""

import math
import numbers
from collections.abc import Sequence

import numpy as np


class UserError(ValueError):
    """Input that cannot be used. The message is one sentence for the user; entry points print it and exit with 2."""


def shown(value: object, width: int = 60) -> str:
    """A value as text for a message: on one line, at most `width` characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= width else text[: width - 3] + "..."


def is_whole(value: object, least: int) -> bool:
    """Whether an option is a whole number, numpy's included, of at least `least`; True is not a number."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


LARGEST = 2**31 - 1
"""The largest int32, the type in which programs count."""


def require_whole(name: str, value: object, least: int, most: int | None = LARGEST) -> int:
    """The option as an int; raises `UserError` unless it is a whole number from `least` to `most`."""
    if not is_whole(value, least):
        raise UserError(f"{name} must be a whole number of at least {least}, not {shown(value)}.")
    if most is not None and value > most:
        raise UserError(f"{name} must be at most {most}, not {shown(value)}.")
    return int(value)


def require_number(name: str, value: object) -> float:
    """The option rounded to float32, in which programs compute. Raises `UserError` unless it is finite there."""
    value = value.item() if getattr(value, "shape", None) == () else value  # a scalar of numpy or jax
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UserError(f"{name} must be a number, not {shown(value)}.")
    try:
        with np.errstate(over="ignore", under="ignore"):
            single = float(np.float32(float(value)))
    except OverflowError:
        single = math.inf
    if not math.isfinite(single):
        raise UserError(f"{name} must be a finite number in float32, not {shown(value)}.")
    return single


def require_text(name: str, value: object) -> str:
    """The option as a str; raises `UserError` unless it is text that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be a text, not {shown(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, as from a command line in another encoding
        raise UserError(f"{name} must be Unicode text, which {shown(value)} is not.") from None
    return str(value)


def require_one_of(name: str, value: object, valid: Sequence[str]) -> None:
    """Raises `UserError` unless an option is one of the valid names."""
    if value not in valid:
        raise UserError(f"Unknown {name} {shown(value)}; choose one of {', '.join(valid)}.")
