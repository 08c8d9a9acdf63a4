"""Parses decoders from text: "ssd-exact", or a dataclass with options such as "SSD(rounds=0)"."""

import ast
from typing import Any

from ssd_jax.decode.acceptance import Group
from ssd_jax.decode.base import KINDS, Decoder
from ssd_jax.decode.presets import PRESETS, find_decoder
from ssd_jax.errors import UserError, shown


def parse_decoder(text: str) -> Decoder:
    """Parses one decoder: a preset's name, or a dataclass with keyword options, which must be literals.

    Raises:
        UserError: an unknown name, or options that the dataclass refuses.
    """
    text = text.strip()
    if "(" not in text:
        return find_decoder(text)
    try:
        decoder = _build(ast.parse(text, mode="eval").body)
    except UserError:
        raise
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        why = str(error)[:100]
        raise UserError(f"{shown(text)} is no decoder: {why}; write, for example, 'SSD(rounds=0)'.") from None
    if not isinstance(decoder, Decoder):
        raise UserError(f"{shown(text)} is no decoder; choose one of {', '.join(PRESETS)}.")
    return decoder


def parse_decoders(text: str) -> dict[str, Decoder]:
    """Parses decoders separated by commas outside parentheses: name as written -> decoder, in order."""
    return {name: parse_decoder(name) for name in split_names(text)}


def split_names(text: str) -> list[str]:
    """Splits at commas outside parentheses; raises `UserError` if there are no names."""
    names, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            names.append("")
        else:
            names[-1] += letter
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UserError(f"{shown(text)} names no decoder; choose some of {', '.join(PRESETS)}.")
    return names


def _build(node: ast.expr) -> object:
    """Evaluates a literal, or a call of a decoder class or `Group` with keywords; nothing else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        kind = Group if node.func.id == Group.__name__ else KINDS[node.func.id]
        # A `**` in the text has no name, None, which the call refuses.
        options: dict[Any, Any] = {word.arg: _build(word.value) for word in node.keywords}
        return kind(**options)
    try:
        return ast.literal_eval(node)
    except ValueError:  # whose message shows an object's address
        raise ValueError("its options must be numbers, quoted names or a Group") from None
