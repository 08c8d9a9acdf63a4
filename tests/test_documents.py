"""README.md and docs/ speak of what is there: links, files, commands, decoders and settings."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

import sample
import ssd_jax
from ssd_jax import entry
from ssd_jax.bench.options import parse as parse_bench
from ssd_jax.decode.names import parse_decoders

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
        assert found.is_file(), link
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
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Map of the code")[1]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    named = {name.removeprefix("ssd_jax/").rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    parts = {path.name for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__", "assets")}
    assert named == parts | {"configs", "train.py", "sample.py"}


def test_readme_names_every_preset():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in ssd_jax.PRESETS if f"`{name}`" not in text] == []
