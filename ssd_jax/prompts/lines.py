"""Prompts from a text file."""

from pathlib import Path

from ssd_jax.errors import UserError


def read_lines(path: Path) -> list[str]:
    """One prompt per line; empty lines are left out. Raises `UserError` if the file cannot be read or has none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"The prompts file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"The prompts file {path} is not UTF-8 text, its byte {error.start} cannot be read.") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"The prompts file {path} has no prompts in it.")
    return found
