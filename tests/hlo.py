"""Finds copies in the loops of a compiled program: arrays as large as a layer of the cache, or as the scores.

Sizes are counted, not shapes: a reshaped, transposed or flattened copy costs as much. A test chooses its sizes so that
nothing else in the program has as many numbers.
"""

import math
import os
import re
from collections.abc import Iterable

import jax

MOVES = {"copy", "copy-start", "transpose", "reshape", "concatenate", "pad", "reverse", "select", "gather"}
MOVES |= {"convert", "bitcast-convert", "dynamic-slice"}
"""Operations that make a new array of numbers that are there already."""

CALLED = re.compile(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def optimised(lowered: jax.stages.Lowered) -> str:
    """The text of the compiled program, as users get it: with the emitters of fusions that conftest.py turns off."""
    flag = "xla_cpu_use_fusion_emitters"
    return lowered.compile(compiler_options={flag: True} if flag in os.environ.get("XLA_FLAGS", "") else {}).as_text()


def computations(hlo: str) -> dict[str, list[str]]:
    """The instructions of every computation of a module's text, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*{$", line):
            lines = found.setdefault(opened[1], [])
        elif line.startswith(" "):
            lines.append(line.strip())
    return found


def called(lines: Iterable[str]) -> set[str]:
    """The computations that instructions refer to: fusions, loops, branches."""
    text = "\n".join(lines)
    branches = (name.strip(" %") for group in BRANCHES.findall(text) for name in group.split(","))
    return {*CALLED.findall(text), *branches}


def in_loops(hlo: str) -> dict[str, list[str]]:
    """Of `computations` those that loops run, directly or not; there must be a loop."""
    every = computations(hlo)
    todo = set(re.findall(r"body=%?([\w.\-]+)", hlo))
    assert todo, "the program has no loop"
    inside: set[str] = set()
    while todo:
        inside |= todo
        todo = set().union(*(called(every[name]) for name in todo)) - inside
    return {name: every[name] for name in sorted(inside)}


def made(line: str) -> tuple[int, str]:
    """How many numbers an instruction makes, of a tuple its first array's, and the instruction's name."""
    kind, operation = re.search(r"= (\(.*?\)|\S+) ([\w-]+)\(", line).groups()
    shape = re.search(r"\[([\d,]*)\]", kind)
    return math.prod(int(n) for n in shape[1].split(",") if n) if shape else 0, operation


def moves(hlo: str, cache: Iterable[int] = (), scores: Iterable[int] = ()) -> list[str]:
    """Instructions in loops, fused or not, that move an array of one of the sizes, in whatever shape.

    Args:
        hlo: the text of a compiled program.
        cache: sizes that nothing may move.
        scores: sizes that may be converted, or selected by a mask. A copy within a fusion is free as well: what changes
            the order of numbers there shows as another operation beside it, a transpose for example.
    """
    cache, scores, found = set(cache), set(scores), []
    for name, lines in in_loops(hlo).items():
        of_scores = MOVES - {"convert", "select"} - ({"copy"} if "fused" in name else set())
        for line in lines:
            size, operation = made(line)
            if operation in MOVES and size in cache or operation in of_scores and size in scores:
                found.append(f"{name}: {line[:200]}")
    return found
