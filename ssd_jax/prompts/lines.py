"""Prompts from a text file."""

from pathlib import Path

from ssd_jax.errors import UserError
from ssd_jax.files import read_text


def read_lines(path: Path) -> list[str]:
    """One prompt per line; empty lines are left out. Raises `UserError` if the file cannot be read or has none."""
    lines = read_text(path, f"The prompts file {path}").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"The prompts file {path} has no prompts in it.")
    return found
