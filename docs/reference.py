"""Writes docs/reference.md, what Python callers can use, from the docstrings: python docs/reference.py"""

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import ssd_jax  # noqa: E402
from ssd_jax.pipeline.description import Described  # noqa: E402

HEADING = """# Reference

What `import ssd_jax` gives, from its docstrings, by `python docs/reference.py`. Other modules may change between
versions; [architecture.md](architecture.md) is their map.
"""
GROUPS = {
    "Models": ("load", "Pipeline", "Output", "Stream", "Preview", "UserError"),
    "Decoders": ("PRESETS", "AR", "Raster", "Tree", "SSD", "Wave", "MTP", "PJD", "Flash", "Group"),
}


def signature(function: object) -> str:
    """The parameters without their annotations, which the docstring explains."""
    parameters = inspect.signature(function).parameters.values()
    shown = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature([p for p in shown if p.name != "self"]))


def block(text: str) -> list[str]:
    """A docstring as it stands."""
    return ["```", *inspect.cleandoc(text).splitlines(), "```", ""]


def methods(kind: type) -> list[str]:
    """Public methods and properties, in the order of the class; then those that it has from `Described`."""
    lines = []
    for name, member in (vars(kind) | (vars(Described) if issubclass(kind, Described) else {})).items():
        text = member.__doc__
        if (
            name.startswith("_")
            or not text
            or not (callable(member) or hasattr(member, "fget") or hasattr(member, "func"))
        ):
            continue
        lines += [f"#### `.{name}{signature(member) if callable(member) else ''}`", "", *block(text)]
    return lines


def reference() -> str:
    """The whole page."""
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(ssd_jax.__all__)
    lines = HEADING.splitlines()
    for group, names in GROUPS.items():
        lines += ["", f"## {group}", ""]
        for name in names:
            found = getattr(ssd_jax, name)
            if isinstance(found, dict):
                lines += [f"### `{name}`", "", "The decoders that `--decoder=NAME` names:", ""]
                lines += [
                    "| name | decoder |",
                    "|---|---|",
                    *(f"| `{key}` | `{value}` |" for key, value in found.items()),
                    "",
                ]
                continue
            lines += [f"### `{name}{signature(found)}`" if name != "UserError" else f"### `{name}`", ""]
            lines += [*block(found.__doc__), *(methods(found) if name in ("Pipeline", "Stream", "Preview") else [])]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
