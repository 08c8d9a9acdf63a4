"""Helpers with which the backbones read fields of a published config.json."""

from collections.abc import Callable, Mapping

from ssd_jax.errors import shown
from ssd_jax.models.config import ConfigError


def section(values: Mapping, name: str) -> Mapping:
    """A section of a config; empty if absent."""
    return values.get(name) or {}


def code_range(vocabulary: Mapping[str, int], name: Callable[[int], str], offset: int, size: int) -> dict[str, int]:
    """The range of ids of the visual codes, as fields of `ModelConfig`.

    Args:
        vocabulary: token -> id; it may contain no codes.
        name: code -> token.
        offset, size: first id and number of codes if the vocabulary contains none.
    Raises:
        ConfigError: the ids are not consecutive in the order of the codes.
    """
    ids = []
    while (token := name(len(ids))) in vocabulary:
        ids.append(vocabulary[token])
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        raise ConfigError("the ids of the visual codes must follow each other in the order of the codes.")
    return {"visual_offset": ids[0] if ids else offset, "visual_size": len(ids) or size}


def levels_of_resolutions(resolution: int, listed: tuple[int, ...]) -> Callable[[Mapping, int], tuple[int, ...]]:
    """Makes a `PublishedVQ.attention_levels` for levels that are listed by the size that an image of `resolution` has
    in them; the arguments are what a config leaves out."""

    def read(values: Mapping, levels: int) -> tuple[int, ...]:
        found = whole_numbers(values.get("attn_resolutions", listed) or (), "attn_resolutions")
        (size,) = whole_numbers([values.get("resolution", resolution)], "resolution")
        return tuple(level for level in range(levels) if size // 2**level in found)

    return read


def whole_numbers(values: object, name: str) -> tuple[int, ...]:
    """A list of whole numbers as a tuple; raises `ConfigError`, about `name`, for anything else."""
    if not isinstance(values, list | tuple) or any(type(value) is not int for value in values):
        raise ConfigError(f"{name} must be whole numbers, not {shown(values)}.")
    return tuple(values)
