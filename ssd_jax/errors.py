"""What can be the user's fault."""

from collections.abc import Sequence


class UserError(ValueError):
    """Input that cannot be used. The message is one sentence for the user; entry points print it and exit with 2."""


def is_whole(value: object, least: int) -> bool:
    """Whether an option is a whole number of at least so much; True is no number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def require_whole(name: str, value: object, least: int) -> None:
    """Raises `UserError` unless an option is a whole number of at least so much."""
    if not is_whole(value, least):
        raise UserError(f"{name} must be a whole number of at least {least}, not {value!r}.")


def require_one_of(name: str, value: object, valid: Sequence[str]) -> None:
    """Raises `UserError` unless an option is one of the valid names."""
    if value not in valid:
        raise UserError(f"Unknown {name} {value!r}; choose one of {', '.join(valid)}.")
