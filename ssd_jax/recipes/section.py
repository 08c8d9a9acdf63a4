"""A config, or a part of one, whose values are checked as they are asked for."""

from collections.abc import Mapping
from typing import Any

from ssd_jax.errors import LARGEST, UserError, require_text, require_whole, shown


class Section:
    """Values by name; what is missing or of another type is a `UserError` that names it.

    Args:
        values: a `ConfigDict` or a dictionary.
        name: how messages call it.
    """

    def __init__(self, values: Any, name: str = "config"):
        values = values.to_dict() if hasattr(values, "to_dict") else values
        if not isinstance(values, Mapping):
            raise UserError(f"{name} must be a section with settings of its own, not {shown(values)}.")
        self.values, self.name = values, name

    def any(self, key: str) -> Any:
        """A value that somebody else checks."""
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
        """A list of texts, of which there is at least one."""
        values = self.any(key)
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"{self.name}.{key} must be a list of texts, not {shown(values)}.")
        return tuple(require_text(f"{self.name}.{key}", value) for value in values)

    def part(self, key: str) -> Mapping[str, Any]:
        """The values of a section inside."""
        return Section(self.any(key), f"{self.name}.{key}").values
