"""Wraps a config, or a section of one, and checks values as they are read."""

from collections.abc import Mapping
from typing import Any

from ssd_jax.errors import LARGEST, UserError, require_text, require_whole, shown


class Section:
    """Values by name; a missing value or one of the wrong type is a `UserError` that names it.

    Args:
        values: a `ConfigDict` or a dictionary.
        name: its name in messages.
    """

    def __init__(self, values: Any, name: str = "config"):
        values = values.to_dict() if hasattr(values, "to_dict") else values
        if not isinstance(values, Mapping):
            raise UserError(f"{name} must be a section with settings of its own, not {shown(values)}.")
        self.values, self.name = values, name

    def any(self, key: str) -> Any:
        """A value that the caller checks."""
        if key not in self.values:
            raise UserError(f"{self.name}.{key} is missing.")
        return self.values[key]

    def whole(self, key: str, least: int, most: int | None = LARGEST) -> int:
        """A whole number in its bounds."""
        return require_whole(f"{self.name}.{key}", self.any(key), least, most)

    def text(self, key: str) -> str:
        """A text."""
        return require_text(f"{self.name}.{key}", self.any(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """A non-empty list of texts."""
        values = self.any(key)
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"{self.name}.{key} must be a list of texts, not {shown(values)}.")
        return tuple(require_text(f"{self.name}.{key}", value) for value in values)

    def part(self, key: str) -> Mapping[str, Any]:
        """The values of a nested section."""
        return Section(self.any(key), f"{self.name}.{key}").values
