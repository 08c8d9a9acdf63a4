"""README.md and docs/ speak of what is there: links, files, commands, decoders and settings."""

import importlib.util
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

import ssd_jax
from ssd_jax.bench.options import parse as parse_bench
from ssd_jax.cli import benchmarks, check, entry, sample
from ssd_jax.decode.names import parse_decoder, parse_decoders

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "ssd_jax"


def anchors(path: Path) -> set[str]:
    """What the headings of a document are called in links."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path: Path) -> list[list[str]]:
    """The words of every command in the bash blocks of a document; a comment or a pipe of commands ends one."""
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        found = path.parent / target if target else path
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_understood(path):
    for words in commands(path):
        if words[:2] == ["python", "sample.py"]:
            args = sample.parse([word for word in words[2:] if word != "..."])
            parse_decoders(args.compare or args.decoder)
            entry.read_config(args.config)
        elif words[:2] == ["python", "train.py"]:
            config = entry.read_config(words[2].removeprefix("--config="))
            for word in words[3:]:
                assert word.startswith("--config."), word
                setting_of(config, word.removeprefix("--config.").partition("=")[0])
        elif words[:3] == ["python", "-m", "ssd_jax.bench"]:
            parse_bench(words[3:])
        elif words[:3] == ["python", "-m", "ssd_jax.eval.benchmarks"]:
            args = benchmarks.parse([word for word in words[3:] if word != "&"])
            parse_decoder(args.decoder)
            entry.read_config(args.config)
        elif words[:3] == ["python", "-m", "ssd_jax.check"]:
            check.parse(words[3:])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_settings_in_the_text_exist(path):
    """In the config of the bundled model or in that of a published one."""
    configs = [entry.read_config(name) for name in ("emoji", "emu3")]
    for name in re.findall(r"--config\.([a-z_.]*[a-z_])", path.read_text(encoding="utf-8")):
        assert any(has_setting(config, name) for config in configs), name


def setting_of(config, name: str):
    for part in name.split("."):
        config = config[part]
    return config


def has_setting(config, name: str) -> bool:
    try:
        setting_of(config, name)
    except (KeyError, TypeError):
        return False
    return True


def test_the_map_has_every_part_and_no_other():
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## The rooms")[1]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    named = {name.removeprefix("ssd_jax/").rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    others = ("__init__.py", "__pycache__", "assets", "py.typed")
    parts = {path.name for path in PACKAGE.iterdir() if path.name not in others}
    assert named == parts | {"configs", "train.py", "sample.py"}


def test_readme_names_every_preset():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in ssd_jax.PRESETS if f"`{name}`" not in text] == []


def test_the_reference_is_that_of_the_code():
    reference = runpy.run_path(str(ROOT / "docs" / "reference.py"))["reference"]()
    found = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert found == reference, "python docs/reference.py"


def test_versions_are_one():
    for name in ("CITATION.cff", "CHANGELOG.md"):
        assert ssd_jax.__version__ in (ROOT / name).read_text(encoding="utf-8"), name


# -- what remakes the tables


@pytest.fixture(scope="module")
def remake():
    spec = importlib.util.spec_from_file_location("remake", ROOT / "docs" / "remake.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_has_one_place_and_its_commands(remake):
    remake.require_places(table for group in remake.GROUPS.values() for table in group.tables)
    counts = {name: len(remake.commands(name)) for name in remake.GROUPS if name not in remake.FILES}
    once = dict.fromkeys(("quality", "exact", "pjd", "seconds", "throughput", "int8", "heads"), 1)
    assert counts == {**once, "sizes": 2, "large": 3}


def test_tables_of_a_bench(remake):
    bench = json.loads((ROOT / "tests/fixtures/bench_janus_pro_1b_epyc.json").read_text())
    rows = bench["decoders"]
    tables = remake.sizes([bench, bench])
    assert set(tables) == set(remake.GROUPS["sizes"].tables)
    share = f"{rows['ssd']['of transformers']:.2f}"
    assert (
        f"| `ssd` | 24 | 80 | {rows['ssd']['seconds']:.1f} |" in tables["sizes"] and f"| {share} |" in tables["sizes"]
    )
    line = next(line for line in remake.seconds([bench])["seconds"].splitlines() if line.startswith("| `ar`"))
    assert line.startswith(f"| `ar` | 1 | 576.0 | 576..576 | {rows['ar']['seconds']:.3f} |")


def test_tables_of_a_report(remake):
    """What stands in docs/emoji-model.md is what its report would put there."""
    text = (ROOT / "docs" / "emoji-model.md").read_text(encoding="utf-8")
    tables = {name: remake.place_of(name).search(text)[2] for name in remake.GROUPS["model"].tables}
    report = "\n\n".join(tables.values()) + "\n"
    assert remake.model([report]) == tables


REPORT = """
| split | NLL, nats per token | VQ round trip, dB | pictures |
|---|---|---|---|
| train | 1.433 | 25.25 | 400 |

| Smooth L1 | untrained | Smooth L1 | Smooth L1, then overlap |
|---|---|---|---|
| down+1 | 11.094 | 8.752 | 11.139 |
| down+2 | 12.952 | 10.009 | 12.477 |

| overlap | untrained | Smooth L1 | Smooth L1, then overlap |
|---|---|---|---|
| down+1 | 0.295 | 0.369 | 0.423 |
| down+2 | 0.205 | 0.263 | 0.310 |
"""


def test_the_table_of_overlaps_is_that_of_two_reports(remake):
    lines = remake.overlap([REPORT.replace("0.369", "0.349"), REPORT])["overlap"].splitlines()
    assert lines[2] == "| any | nothing: they copy |  | .295 (11.09) | .205 (12.95) |"
    assert lines[3] == "| published | Smooth L1 | 2.30 M | .349 (8.75) | .263 (10.01) |"
    assert lines[5] == "| context 2 | Smooth L1 | 2.79 M | .369 (8.75) | .263 (10.01) |"
    assert lines[6] == "| context 2 (bundled) | Smooth L1, then overlap | 2.79 M | .423 (11.14) | .310 (12.48) |"


def test_every_set_of_draft_heads_has_its_own_numbers(remake):
    labels = {"@published": 0.1, "@overlap": 0.2, "@context_l1": 0.3, "": 0.4}
    rows = {f"ssd{label}": {"nll difference": value, "kid": value / 1e2} for label, value in labels.items()}
    tables = remake.heads([{"decoders": {"ar": {}, **rows}}])
    expected = ["published | Smooth L1", "published | Smooth L1, then overlap", "context 2 | Smooth L1"]
    expected.append("context 2 (bundled) | Smooth L1, then overlap")
    for name, values in (("heads-nll", ("+0.100", "+0.200", "+0.300", "+0.400")), ("heads-kid", "1234")):
        lines = [f"| {how} | {value} |" for how, value in zip(expected, values, strict=True)]
        assert tables[name].splitlines()[2:] == lines


def test_a_table_is_put_between_its_marks_alone(remake, tmp_path, monkeypatch):
    path = tmp_path / "a.md"
    path.write_text(
        "one\n\n<!-- table: a -->\n\n| old |\n\n<!-- end -->\n\ntwo\n\n<!-- table: b -->\n\n| b |\n\n<!-- end -->\n"
    )
    monkeypatch.setattr(remake, "DOCUMENTS", (path,))
    before = path.read_text()
    remake.put({"a": "| new |"})
    assert path.read_text() == before.replace("old", "new")
    with pytest.raises(ssd_jax.UserError, match="0 places for the table 'c'"):
        remake.require_places(["a", "c"])
