"""Reads prompts from a text file."""

from pathlib import Path

from ssd_jax.errors import UserError
from ssd_jax.files import read_text

LARGEST_FILE = 2**28
"""In bytes; enough for two million prompts of a hundred characters."""


def read_lines(path: Path) -> list[str]:
    """One prompt per line; empty lines are left out. Raises `UserError` if the file cannot be read, is larger than
    `LARGEST_FILE`, or has none."""
    try:
        size = Path(path).stat().st_size
    except (OSError, ValueError):  # reading it will say why
        size = 0
    if size > LARGEST_FILE:
        raise UserError(f"The prompts file {path} has {size} bytes; at most {LARGEST_FILE} are read.")
    lines = read_text(path, f"The prompts file {path}").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"The prompts file {path} has no prompts in it.")
    return found
