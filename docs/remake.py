"""Remakes the tables of README.md and docs/ from a finished model, with the commands that stand beside them.

    python docs/remake.py                         # everything: hours on two cores
    python docs/remake.py quality heads           # some of them
    python docs/remake.py --keep quality          # tables from the numbers of the last run

The commands are those in the block behind a line <!-- command: NAME -->; a table lies between the lines
<!-- table: NAME --> and <!-- end -->. Numbers go to runs/tables/. Quality needs data/emoji, which `train.py` draws, and
pip install -e ".[eval]"; seconds need an idle machine, and pip install -e ".[baseline]".
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RUNS = ROOT / "runs" / "tables"

sys.path.insert(0, str(ROOT))
from ssd_jax.bench.report import RECKONED  # noqa: E402 - of this checkout

Bench = dict[str, Any]
"""What a bench.json holds."""


def place_of(name: str) -> re.Pattern:
    """A table between its marks: before it, the table, behind it."""
    return re.compile(rf"(<!-- table: {re.escape(name)} -->\n\n)((?:(?!<!--).)*)(\n\n<!-- end -->)", re.DOTALL)


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
    """Whether all pictures are `ar`'s."""
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
    ("`ar`'s pictures", yes),
    ("NLL - `ar`", "nll difference", "{:+.3f}"),
    ("on fresh prompts", "fresh nll difference", "{:+.3f}"),
    ("NLL - that of `{against}`", "nll against", "{:+.3f}"),
    ("KID x 1000", "kid", "{:.0f}", 1e3),
    ("R@5", "r@5", "{:.2f}"),
)
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
    ("`ar`'s pictures", yes),
)
HEADS = {
    "published_l1": "published, Smooth L1",
    "context_l1": "context 2, Smooth L1",
}


def quality(benches: Sequence[Bench]) -> dict[str, str]:
    """All decoders."""
    against = re.search(r"--against=(\S+)", benches[0]["setup"]["command"])[1]
    return {"quality": columns(benches[0]["decoders"], QUALITY).replace("{against}", against)}


def seconds(benches: Sequence[Bench]) -> dict[str, str]:
    """All decoders on the bundled model, and its passes by window."""
    return {"seconds": columns(benches[0]["decoders"], SECONDS), "window": windows(benches[:1], ["ms per pass"])}


def sizes(benches: Sequence[Bench]) -> dict[str, str]:
    """Janus-Pro-1B in bfloat16 and int8, beside transformers."""
    both = [bench["decoders"] for bench in benches]
    names = ["transformers", *(name for name in both[0] if name != "transformers")]
    spec = (("seconds", "{:.1f}", 1), ("seconds per pass", "{:.0f}", 1e3), ("of transformers", "{:.2f}", 1))
    lines = [
        [
            "transformers, bfloat16" if name == "transformers" else f"`{name}`",
            number(both[0][name], "window", "{}"),
            number(both[0][name], "passes", "{:.0f}") or "depends on the picture",
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


def int8(benches: Sequence[Bench]) -> dict[str, str]:
    """The bundled model in three numerics."""
    spec = (
        ("weights, MB", "bytes", "{:.1f}", 1e-6),
        ("tokens as in float32", "equal tokens", "{:.1f} %", 100),
        ("pictures", "equal pictures", "{:.1f} %", 100),
        ("NLL of float32's pictures: more", "cross nll difference", "{:+.4f}"),
        ("NLL of its own, under float32: more", "nll difference", "{:+.3f}"),
        ("KID x 1000", "kid", "{:.0f}", 1e3),
        ("FD", "fd", "{:.1f}"),
    )
    return {"int8": columns(benches[0]["decoders"], spec).replace("| decoder |", "| numerics |")}


def heads(benches: Sequence[Bench]) -> dict[str, str]:
    """Three sets of draft heads under the same decoders."""
    rows = benches[0]["decoders"]
    decoders = [name for name in rows if "@" not in name and name != "ar"]

    def table(*how: Any) -> str:
        lines = [
            [label, *(number(rows[f"{name}@{key}" if key else name], *how) for name in decoders)]
            for key, label in {**HEADS, "": "context 2, then overlap (bundled)"}.items()
        ]
        return markdown(["vertical heads, all trained on", *(f"`{name}`" for name in decoders)], lines)

    return {
        "heads-nll": table("nll difference", "{:+.3f}"),
        "heads-kid": table("kid", "{:.0f}", 1e3),
    }


WIDE = {"jacobi-above": "Raster(window=64,drafter='above',history=8)", "ssd-exact": "Raster(window=64,history=8)"}
"""Under which name quality is measured of decoders whose default window on a CPU is a narrow one."""


def summary(benches: Sequence[Bench]) -> dict[str, str]:
    """README's table, from the numbers of quality and seconds; what is said of each decoder stays as it is."""
    drawn, timed = (bench["decoders"] for bench in benches)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    old = place_of("summary").search(text)
    heading, rule, *lines = old[2].splitlines() if old else ("", "")
    new = [heading, rule]
    for line in lines:
        name, words = (cell.strip() for cell in line.split("|")[1:3])
        row, seen = timed[name.strip("`")], drawn[WIDE.get(name.strip("`"), name.strip("`"))]
        passes = [f"{row['passes']:.0f}", *([f"{seen['passes']:.0f}"] if name.strip("`") in WIDE else [])]
        same = "yes" if seen["equal pictures"] == 1 else "no, but the same law" if seen["lossless"] else "no"
        loss = "0" if seen["equal pictures"] == 1 else number(seen, "nll difference", "{:+.2f}")
        cells = [name, words, number(row, "seconds", "{:.3f}"), number(row, "speedup", "{:.2f}"), ", ".join(passes)]
        new.append("| " + " | ".join([*cells, same, loss]) + " |")
    return {"summary": "\n".join(new)}


class Group(NamedTuple):
    """What is remade together: a function of the bench's files, the tables that it makes, and pictures that go to
    docs/images."""

    make: Callable[[Sequence[Bench]], dict[str, str]]
    tables: tuple[str, ...]
    pictures: tuple[str, ...] = ()


GROUPS = {
    "quality": Group(quality, ("quality",), ("quality.png",)),
    "seconds": Group(seconds, ("seconds", "window"), ("window.png",)),
    "sizes": Group(sizes, ("sizes", "sizes-window", "sizes-short")),
    "int8": Group(int8, ("int8",)),
    "heads": Group(heads, ("heads-nll", "heads-kid")),
    "summary": Group(summary, ("summary",)),
}

NUMBERS = {"summary": ("quality-0", "seconds-0")}
"""Groups without commands of their own, and whose numbers they show."""


def commands(name: str) -> list[list[str]]:
    """The bench's command lines in the block that is marked with a name, without `python`."""
    pattern = re.compile(rf"<!-- command: {re.escape(name)} -->\n+```bash\n(.*?)\n```", re.DOTALL)
    blocks = [found for path in DOCUMENTS for found in pattern.findall(path.read_text(encoding="utf-8"))]
    if len(blocks) != 1:
        raise SystemExit(f"error: {len(blocks)} blocks are marked <!-- command: {name} -->; there must be one.")
    lines = blocks[0].replace("\\\n", "").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:3] == ["python", "-m", "ssd_jax.bench"]]


def require_places(names: Iterable[str]) -> None:
    """Ends the program, before anything is measured, if a table has no place or several."""
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    for name in names:
        if (count := sum(len(place_of(name).findall(text)) for text in texts)) != 1:
            raise SystemExit(f"error: the documents have {count} places for the table {name!r}; there must be one.")


def put(tables: dict[str, str]) -> None:
    """Writes tables between their marks."""
    for path in DOCUMENTS:
        old = new = path.read_text(encoding="utf-8")
        for name, table in tables.items():
            new = place_of(name).sub(lambda found, table=table: found[1] + table + found[3], new)
        if new != old:
            path.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--keep", action="store_true", help="run nothing, write what was measured last")
    args = parser.parse_args()
    if unknown := set(args.names) - GROUPS.keys():
        parser.error(f"there is no {min(unknown)!r}; choose some of {', '.join(GROUPS)}")
    names = args.names or list(GROUPS)
    require_places(table for name in names for table in GROUPS[name].tables)
    lines = {name: [] if name in NUMBERS else commands(name) for name in names}
    for name in names:
        folders = [RUNS / f"{name}-{place}" for place in range(len(lines[name]))]
        for words, folder in zip(lines[name], folders, strict=True):
            if not args.keep:
                subprocess.run([sys.executable, *words, f"--out={folder}"], cwd=ROOT, check=True)
        folders += [RUNS / folder for folder in NUMBERS.get(name, ())]
        put(GROUPS[name].make([json.loads((folder / "bench.json").read_text(encoding="utf-8")) for folder in folders]))
        for picture in GROUPS[name].pictures:
            shutil.copyfile(folders[0] / picture, ROOT / "docs" / "images" / picture)


if __name__ == "__main__":
    main()
