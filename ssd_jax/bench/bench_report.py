"""Writes the bench's numbers as a markdown table and as JSON."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ssd_jax.eval.estimates import Estimate
from ssd_jax.files import replacing

COLUMNS = (
    # heading, key, format of the value, factor
    ("weights, MB", "bytes", "{:.1f}", 1e-6),
    ("W", "window", "{}", 1),
    ("passes", "passes", "{:.1f}", 1),
    ("min..max", "passes range", "{}..{}", 1),
    ("fewer", "reduction", "{:.2f}x", 1),
    ("s / image (median)", "seconds", "{:.3f}", 1),
    ("min..max", "seconds range", "{:.3f}..{:.3f}", 1),
    ("faster", "speedup", "{:.2f}x", 1),
    ("of transformers'", "of transformers", "{:.3f}", 1),
    ("ms / pass", "seconds per pass", "{:.2f}", 1e3),
    ("verify", "verify", "{:.2f}", 1e3),
    ("draft", "draft", "{:.2f}", 1e3),
    ("sampling + accept", "rest", "{:.2f}", 1e3),
    ("equal tokens", "equal tokens", "{:.1f} %", 100),
    ("equal pictures", "equal pictures", "{:.1f} %", 100),
    ("passes, 95 %", "mean passes", "{:.1f}", 1),
    ("passes, fresh prompts", "fresh passes", "{:.1f}", 1),
    ("passes, against", "passes against", "{:+.1f}", 1),
    ("NLL / token", "nll", "{:.3f}", 1),
    ("NLL - ar", "nll difference", "{:+.3f}", 1),
    ("NLL - ar, fresh prompts", "fresh nll difference", "{:+.3f}", 1),
    ("NLL, against", "nll against", "{:+.3f}", 1),
    ("NLL of float32's", "cross nll", "{:.4f}", 1),
    ("more", "cross nll difference", "{:+.4f}", 1),
    ("KID x 1000", "kid", "{:.2f}", 1e3),
    ("FD", "fd", "{:.2f}", 1),
    ("R@1", "r@1", "{:.3f}", 1),
    ("R@5", "r@5", "{:.3f}", 1),
)

RECKONED = ("seconds", "seconds range", "speedup", "of transformers")
"""Columns marked with ~ where only some passes of an image were timed."""


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A markdown table: one line per decoder, the measured columns, if any, estimates with 95 % intervals."""
    columns = [column for column in COLUMNS if any(column[1] in row for row in rows.values())]
    if not columns:
        return ""
    lines = ["| decoder | " + " | ".join(column[0] for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        about = RECKONED if row.get("extrapolated") else ()
        cells = (_cell(row.get(key), *how) for _, key, *how in columns)
        marked = ("~" * (key in about and cell != "") + cell for (_, key, *_), cell in zip(columns, cells, strict=True))
        lines.append(f"| {name} | " + " | ".join(marked) + " |")
    return "\n".join(lines)


def _cell(value: Any, form: str, factor: float) -> str:
    if value is None:
        return ""
    if isinstance(value, Estimate):
        ends = "" if math.isnan(value.low) else f" [{form}, {form}]".format(value.low * factor, value.high * factor)
        return form.format(value.value * factor) + ends
    if isinstance(value, tuple):
        return form.format(*value)
    return form.format(value * factor)


def write(folder: Path, setup: dict[str, Any], rows: dict, curve: dict[int, float], notes: list[str]) -> None:
    """Writes bench.md and bench.json."""
    text = [f"`{setup['command']}`", "", ", ".join(f"{key} {setup[key]}" for key in setup if key != "command"), ""]
    text += [*filter(None, [table(rows)]), "", *notes]
    if curve:
        windows = " | ".join(str(window) for window in curve)
        text += ["", f"| window | {windows} |", "|---" * (len(curve) + 1) + "|"]
        text += ["| ms / pass | " + " | ".join(f"{1e3 * seconds:.2f}" for seconds in curve.values()) + " |"]
    with replacing(folder / "bench.md") as temporary:
        temporary.write_text("\n".join(text) + "\n", encoding="utf-8")
    values = {"setup": setup, "decoders": rows, "seconds per pass by window": curve, "notes": notes}
    with replacing(folder / "bench.json") as temporary:
        temporary.write_text(json.dumps(_plain(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """A value that JSON can hold: estimates as objects, NaN as null."""
    if isinstance(value, Estimate):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
