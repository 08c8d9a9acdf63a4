"""Remakes the tables of README.md and docs/ from a finished model, with the commands that stand beside them.

    python docs/remake.py                         # everything: hours on two cores
    python docs/remake.py quality heads           # some of them
    python docs/remake.py --keep quality          # tables from the numbers of the last run

The commands are those in the block behind a line <!-- command: NAME -->; a table lies between the lines
<!-- table: NAME --> and <!-- end -->. Numbers go to runs/tables/. Quality needs data/emoji, which `train.py` draws, and
pip install -e ".[eval]"; seconds need an idle machine, and pip install -e ".[baseline]"; heads and overlap need the two
trainings that stand in docs/results.md.
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

sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
from tables import Bench, exact, heads, int8, large, model, number, overlap, pjd, quality, seconds, sizes, throughput  # noqa: E402

from ssd_jax.cli import entry  # noqa: E402
from ssd_jax.errors import UserError  # noqa: E402


def place_of(name: str) -> re.Pattern:
    """A table between its marks: before it, the table, behind it."""
    return re.compile(rf"(<!-- table: {re.escape(name)} -->\n\n)((?:(?!<!--).)*)(\n\n<!-- end -->)", re.DOTALL)


WIDE = {"jacobi-above": "Raster(window=64,drafter='above',history=8)", "ssd-exact": "Raster(window=64,history=8)"}
"""Under which name quality is measured of decoders whose default window on a CPU is a narrow one."""


def summary(benches: Sequence[Bench]) -> dict[str, str]:
    """README's table, from the numbers of quality and seconds; what is said of each decoder stays as it is."""
    drawn, timed = (bench["decoders"] for bench in benches)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    heading, rule, *lines = place_of("summary").search(text)[2].splitlines()
    new = [heading, rule]
    for line in lines:
        name, words = line.split("|")[1].strip(" `"), line.split("|")[2].strip()
        row, seen = timed[name], drawn[WIDE.get(name, name)]
        same = "yes" if seen["equal pictures"] == 1 else "no, but the same distribution" if seen["lossless"] else "no"
        loss = "0" if seen["equal pictures"] == 1 else number(seen, "nll difference", "{:+.2f}")
        cells = [
            f"`{name}`",
            words,
            number(row, "seconds", "{:.3f}"),
            number(row, "speedup", "{:.2f}"),
            f"{row['passes']:.0f}",
            f"{seen['passes']:.0f}",
        ]
        new.append("| " + " | ".join([*cells, same, loss]) + " |")
    return {"summary": "\n".join(new)}


class Group(NamedTuple):
    """What is remade together: a function of the bench's files, the tables that it makes, and images that go to
    docs/images."""

    make: Callable[[Sequence[Bench]], dict[str, str]]
    tables: tuple[str, ...]
    pictures: tuple[str, ...] = ()


GROUPS = {
    "quality": Group(quality, ("quality",), ("quality.png",)),
    "exact": Group(exact, ("exact",)),
    "pjd": Group(pjd, ("pjd",)),
    "seconds": Group(seconds, ("seconds", "window"), ("window.png",)),
    "throughput": Group(throughput, ("throughput",)),
    "sizes": Group(sizes, ("sizes", "sizes-window", "sizes-short")),
    "large": Group(large, ("large", "large-window")),
    "int8": Group(int8, ("int8",)),
    "heads": Group(heads, ("heads-nll", "heads-kid")),
    "summary": Group(summary, ("summary",)),
    "model": Group(model, ("model-nll", "model-smooth-l1", "model-overlap")),
    "overlap": Group(overlap, ("overlap",)),
}

FILES = {
    "summary": [RUNS / "quality-0" / "bench.json", RUNS / "seconds-0" / "bench.json"],
    "model": [ROOT / "runs" / "emoji" / "report.md"],
    "overlap": [ROOT / "runs" / name / "report.md" for name in ("published", "emoji")],
}
"""Groups without commands of their own, and the files with their numbers."""


def read(path: Path) -> Any:
    """A bench.json, or the text of a report."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    return json.loads(text) if path.suffix == ".json" else text


def commands(name: str) -> list[list[str]]:
    """The bench's command lines in the block that is marked with a name, without `python`."""
    pattern = re.compile(rf"<!-- command: {re.escape(name)} -->\n+```bash\n(.*?)\n```", re.DOTALL)
    blocks = [found for path in DOCUMENTS for found in pattern.findall(path.read_text(encoding="utf-8"))]
    if len(blocks) != 1:
        raise UserError(f"{len(blocks)} blocks are marked <!-- command: {name} -->; there must be one.")
    lines = blocks[0].replace("\\\n", "").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:3] == ["python", "-m", "ssd_jax.bench"]]


def require_places(names: Iterable[str]) -> None:
    """Raises `UserError`, before anything is measured, if a table has no place or several."""
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    for name in names:
        if (count := sum(len(place_of(name).findall(text)) for text in texts)) != 1:
            raise UserError(f"The documents have {count} places for the table {name!r}; there must be one.")


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
    lines = {name: [] if name in FILES else commands(name) for name in names}
    for name in names:
        folders = [RUNS / f"{name}-{place}" for place in range(len(lines[name]))]
        for words, folder in zip(lines[name], folders, strict=True):
            if not args.keep:
                subprocess.run([sys.executable, *words, f"--out={folder}"], cwd=ROOT, check=True)
        put(GROUPS[name].make([read(path) for path in FILES.get(name, [folder / "bench.json" for folder in folders])]))
        for picture in GROUPS[name].pictures:
            shutil.copyfile(folders[0] / picture, ROOT / "docs" / "images" / picture)


if __name__ == "__main__":
    entry.run(main)
