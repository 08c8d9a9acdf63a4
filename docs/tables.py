"""The tables of the documents, made of what the bench and the training wrote."""

import re
from collections.abc import Sequence
from typing import Any

from ssd_jax.bench.bench_report import RECKONED
from ssd_jax.bench.throughput import Throughput, throughput_table

Bench = dict[str, Any]
"""What a bench.json holds."""


LARGE = {"Janus-Pro-7B": "6.59 B", "Lumina-mGPT-7B": "6.50 B", "Emu3-8B": "7.87 B"}

SETS = {
    "@published": ("published", "Smooth L1", "2.30 M"),
    "@overlap": ("published", "Smooth L1, then overlap", "2.30 M"),
    "@context_l1": ("context 2", "Smooth L1", "2.79 M"),
    "": ("context 2 (bundled)", "Smooth L1, then overlap", "2.79 M"),
}
"""Label in the bench's command -> vertical draft heads, how all heads were trained, number of their parameters."""


def number(row: dict, key: str, form: str = "{:.1f}", factor: float = 1) -> str:
    """A number with its interval, if it has one; empty if it was not measured."""
    value = row.get(key)
    if isinstance(value, dict):
        ends = (form.format(value[end] * factor) for end in ("low", "high") if value[end] is not None)
        inside = ", ".join(ends)
        shown = form.format(value["value"] * factor)
        return shown if value["low"] == value["high"] or not inside else f"{shown} [{inside}]"
    if isinstance(value, list):
        return "..".join(form.format(item * factor) for item in value)  # a range
    mark = "~" if row.get("extrapolated") and key in RECKONED else ""
    return "" if value is None else mark + form.format(value * factor)


def yes(row: dict) -> str:
    """Whether all images are `ar`'s."""
    return "" if "equal pictures" not in row else "yes" if row["equal pictures"] == 1 else "no"


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    cells = [headings, ["---"] * len(headings), *lines]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in cells).replace("| --- ", "|---").replace("--- |", "---|")
    )


def columns(rows: dict[str, dict], spec: Sequence[tuple]) -> str:
    """A line per decoder; the spec is (heading, key, form, factor) or (heading, function)."""
    cells = [
        [f"`{name}`", *(how[0](row) if callable(how[0]) else number(row, *how) for _, *how in spec)]
        for name, row in rows.items()
    ]
    return markdown(["decoder", *(heading for heading, *_ in spec)], cells)


def windows(benches: Sequence[Bench], names: Sequence[str]) -> str:
    """Milliseconds of a pass by window, a line per bench."""
    curves = [bench["seconds per pass by window"] for bench in benches]
    form = "{:.2f}" if min(curves[0].values()) < 0.01 else "{:.0f}"
    lines = [
        [name, *(form.format(1e3 * value) for value in curve.values())]
        for name, curve in zip(names, curves, strict=True)
    ]
    return markdown(["window", *curves[0]], lines)


QUALITY = (
    ("passes", "mean passes", "{:.1f}"),
    ("`ar`'s images", yes),
    ("NLL - `ar`", "nll difference", "{:+.3f}"),
    ("on fresh prompts", "fresh nll difference", "{:+.3f}"),
    ("NLL - that of `{against}`", "nll against", "{:+.3f}"),
    ("KID x 1000", "kid", "{:.0f}", 1e3),
    ("FD", "fd", "{:.1f}"),
    ("R@5", "r@5", "{:.2f}"),
)
EXACT = (
    ("inputs of a pass", "inputs", "{}"),
    ("passes", "mean passes", "{:.1f}"),
    ("on fresh prompts", "fresh passes", "{:.1f}"),
    ("passes - those of `{against}`", "passes against", "{:+.1f}"),
    ("`ar`'s images", yes),
)
PJD = (EXACT[0], *QUALITY[:1], *QUALITY[2:])
SECONDS = (
    ("W", "window", "{}"),
    ("passes", "passes", "{:.1f}"),
    ("min..max", "passes range", "{}"),
    ("seconds", "seconds", "{:.3f}"),
    ("min..max", "seconds range", "{:.3f}"),
    ("faster", "speedup", "{:.2f}x"),
    ("ms per pass", "seconds per pass", "{:.2f}", 1e3),
    ("verify", "verify", "{:.2f}", 1e3),
    ("draft", "draft", "{:.2f}", 1e3),
    ("sampling + accept", "rest", "{:.2f}", 1e3),
    ("`ar`'s images", yes),
)


def quality(benches: Sequence[Bench]) -> dict[str, str]:
    """All decoders."""
    return {"quality": _against(benches[0], QUALITY)}


def exact(benches: Sequence[Bench]) -> dict[str, str]:
    """What makes the exact decoders' passes fewer."""
    return {"exact": _against(benches[0], EXACT)}


def pjd(benches: Sequence[Bench]) -> dict[str, str]:
    """Parallel Jacobi decoding, by its options."""
    return {"pjd": _against(benches[0], PJD)}


def _against(bench: Bench, spec: Sequence[tuple]) -> str:
    against = re.search(r"--against='?([^\s']+)", bench["setup"]["command"])[1]
    return columns(bench["decoders"], spec).replace("{against}", against)


def seconds(benches: Sequence[Bench]) -> dict[str, str]:
    """All decoders on the bundled model, and its passes by window."""
    return {"seconds": columns(benches[0]["decoders"], SECONDS), "window": windows(benches[:1], ["ms per pass"])}


def throughput(benches: Sequence[Bench]) -> dict[str, str]:
    """Images a minute by the size of batches."""
    found = {
        name: {int(size): Throughput(**each) for size, each in row["throughput"].items()}
        for name, row in benches[0]["decoders"].items()
    }
    return {"throughput": throughput_table(found)}


def sizes(benches: Sequence[Bench]) -> dict[str, str]:
    """Janus-Pro-1B in bfloat16 and int8, beside transformers."""
    both = [bench["decoders"] for bench in benches]
    names = ["transformers", *(name for name in both[0] if name != "transformers")]
    spec = (("seconds", "{:.1f}", 1), ("seconds per pass", "{:.0f}", 1e3), ("of transformers", "{:.2f}", 1))
    lines = [
        [
            "transformers, bfloat16" if name == "transformers" else f"`{name}`",
            number(both[0][name], "window", "{}"),
            number(both[0][name], "passes", "{:.0f}") or "depends on the image",
            *(number(rows[name], *how) for rows in both for how in spec),
        ]
        for name in names
    ]
    headings = ["", "W", "passes"]
    for kind in ("bfloat16", "int8"):
        headings += [f"{kind}: seconds", "ms per pass", "share"]
    curves = windows(benches, ["ms per pass, bfloat16", "ms per pass, int8"])
    short = [[line[0], line[3], line[5], line[6], line[8]] for line in lines if line[3]]
    readme = markdown(["", "bfloat16", "share of transformers' seconds", "int8 (`--quantize=int8`)", "share"], short)
    return {"sizes": markdown(headings, lines), "sizes-window": curves, "sizes-short": readme}


def large(benches: Sequence[Bench]) -> dict[str, str]:
    """The models of 7 and 8 B, of which some passes were timed."""
    lines = []
    for bench, label, parameters in zip(benches, LARGE, LARGE.values(), strict=True):
        for place, name in enumerate(("transformers", "ar", "ssd")):
            row = bench["decoders"][name]
            first = (f"{label}, {bench['setup']['grid']}", f"{parameters} parameters", "")[place]
            wide = f", W = {row['window']}" if name == "ssd" else ""
            cells = [number(row, "passes", "{:.0f}"), number(row, "seconds per pass", "{:.0f}", 1e3)]
            cells += [number(row, "seconds", "{:.0f}"), number(row, "of transformers", "{:.2f}").strip("~")]
            lines.append([first, name + wide, *cells])
    headings = ["", "", "passes", "ms per pass", "seconds an image", "share"]
    names = [f"ms per pass, {label}" for label in LARGE]
    return {"large": markdown(headings, lines), "large-window": windows(benches, names)}


def int8(benches: Sequence[Bench]) -> dict[str, str]:
    """The bundled model in three numerics."""
    spec = (
        ("weights, MB", "bytes", "{:.1f}", 1e-6),
        ("tokens as in float32", "equal tokens", "{:.1f} %", 100),
        ("images", "equal pictures", "{:.1f} %", 100),
        ("NLL of float32's images: more", "cross nll difference", "{:+.4f}"),
        ("NLL of its own, under float32: more", "nll difference", "{:+.3f}"),
        ("KID x 1000", "kid", "{:.0f}", 1e3),
        ("FD", "fd", "{:.1f}"),
    )
    return {"int8": columns(benches[0]["decoders"], spec).replace("| decoder |", "| numerics |")}


def heads(benches: Sequence[Bench]) -> dict[str, str]:
    """Four sets of draft heads under the same decoders."""
    rows = benches[0]["decoders"]
    decoders = [name for name in rows if "@" not in name and name != "ar"]

    def table(*how: Any) -> str:
        lines = [
            [kind, trained, *(number(rows[f"{name}{label}"], *how) for name in decoders)]
            for label, (kind, trained, _) in SETS.items()
        ]
        return markdown(["vertical heads", "all trained on", *(f"`{name}`" for name in decoders)], lines)

    return {
        "heads-nll": table("nll difference", "{:+.3f}"),
        "heads-kid": table("kid", "{:.0f}", 1e3),
    }


def tables_of(report: str) -> list[dict[str, list[str]]]:
    """The tables of a report.md of the training: first cell of a line -> the others; the heading is under ""."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        found.append({"": cells[0], **{line[0]: line[1:] for line in cells[2:]}})
    return found


def model(reports: Sequence[str]) -> dict[str, str]:
    """What train.py found out about the bundled model."""
    names = ("model-nll", "model-smooth-l1", "model-overlap")
    return {
        name: markdown(table[""], [[first, *rest] for first, rest in table.items() if first])
        for name, table in zip(names, tables_of(reports[0]), strict=False)
    }


def overlap(reports: Sequence[str]) -> dict[str, str]:
    """Held-out overlap of the vertical heads, Smooth L1 in brackets; every report is of two sets, before and after the
    training on the overlap."""

    def cells(report: str, column: int) -> list[str]:
        losses, shares = tables_of(report)[1:3]
        return [f"{shares[key][column].lstrip('0')} ({float(losses[key][column]):.2f})" for key in ("down+1", "down+2")]

    lines = [["any", "nothing: they copy", "", *cells(reports[0], 0)]]
    found = [cells(report, column) for report in reports for column in (1, 2)]
    lines += [[*names, *values] for names, values in zip(SETS.values(), found, strict=True)]
    return {"overlap": markdown(["vertical heads", "trained on", "parameters of all heads", "down+1", "down+2"], lines)}
