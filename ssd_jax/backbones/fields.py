"""Fields of a published config.json: what the rooms share in reading them."""

from collections.abc import Callable, Mapping

from ssd_jax.errors import shown
from ssd_jax.models.config import ConfigError


def section(values: Mapping, name: str) -> Mapping:
    """A section of a config; empty if it is absent."""
    return values.get(name) or {}


def code_range(vocabulary: Mapping[str, int], name: Callable[[int], str], offset: int, size: int) -> dict[str, int]:
    """Where the visual codes are among the ids.

    Args:
        vocabulary: token -> id; it may name none of the codes.
        name: code -> token.
        offset, size: the first id, and how many there are, if the vocabulary names none.
    Raises:
        ConfigError: the ids do not follow each other in the order of the codes.
    """
    ids = []
    while (token := name(len(ids))) in vocabulary:
        ids.append(vocabulary[token])
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        raise ConfigError("the ids of the visual codes must follow each other in the order of the codes.")
    return {"visual_offset": ids[0] if ids else offset, "visual_size": len(ids) or size}


def whole_numbers(values: object, name: str) -> tuple[int, ...]:
    """A list as a tuple; raises `ConfigError` unless it is one of whole numbers. `name` says what it is."""
    if not isinstance(values, list | tuple) or any(type(value) is not int for value in values):
        raise ConfigError(f"{name} must be whole numbers, not {shown(values)}.")
    return tuple(values)
