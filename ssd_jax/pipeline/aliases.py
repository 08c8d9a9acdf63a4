"""Lets a function be called with the names that other libraries have for its arguments."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ssd_jax.errors import UserError

Alias = tuple[str, Callable[[Any], Any]]
"""The argument's name here, and its value from that under the alias."""


def _same(value: Any) -> Any:
    return value


def _listed(prompt: Any) -> Any:
    return [prompt] if isinstance(prompt, str) else prompt


GENERATE: Mapping[str, Alias] = {
    "prompt": ("prompts", _listed),
    "num_images_per_prompt": ("num_images", _same),
    "guidance_scale": ("cfg_scale", _same),
}
"""Of the arguments of `Pipeline.generate`; `prompt` may be a single text."""

Function = TypeVar("Function", bound=Callable[..., Any])


def accepts(aliases: Mapping[str, Alias]) -> Callable[[Function], Function]:
    """A decorator: keyword arguments may have their aliases' names, alias -> `Alias`.

    The function then raises `UserError` for an argument that is given twice, and for a keyword that it does not have;
    the message names the nearest one that it has.
    """

    def decorate(function: Function) -> Function:
        names = [name for name in inspect.signature(function).parameters if name != "self"]

        @functools.wraps(function)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            given = dict(zip(names, arguments, strict=False))
            renamed: dict[str, Any] = {}
            for key, value in options.items():
                name, convert = aliases.get(key, (key, _same))
                if name in given or name in renamed:
                    raise UserError(f"{name} is given twice{f', once as {key}' if key != name else ''}.")
                if name not in names:
                    raise UserError(f"{function.__name__} has no argument {key}{_nearest(key, [*names, *aliases])}.")
                renamed[name] = convert(value)
            return function(self, *arguments, **renamed)

        return call  # pyright: ignore[reportReturnType]

    return decorate


def _nearest(key: str, known: list[str]) -> str:
    found = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else f"; it has {', '.join(known)}"
