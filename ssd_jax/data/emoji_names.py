"""Builds the table of all emoji: their names as captions, and which of them differ only by skin tone."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

TONES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}
SPELLED_OUT = {"&": " and ", "#": " hash ", "*": " asterisk "}
SPOKEN_TONE = re.compile(r" (?:medium-light|medium-dark|light|medium|dark) skin tone")


class Emoji(NamedTuple):
    """One entry of the table of names.

    Attributes:
        text: the characters, fully qualified (with U+FE0F where Unicode requires it).
        name: lower-case English words, "thumbs up medium skin tone".
        identity: the code shared by all skin tones of this emoji.
        tone: "", one of the values of `TONES`, or "mixed".
    """

    text: str
    name: str
    identity: str
    tone: str


def require(module: str) -> ModuleType:
    """Imports a package of the `train` extra, or raises an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed to build the emoji data: pip install "ssd_jax[train]"') from error


def code_of(text: str) -> str:
    """The key of an emoji: lower-case hexadecimal code points without FE0F, joined by hyphens ("1f44d-1f3fd")."""
    return "-".join(f"{ord(character):x}" for character in text if character != "\ufe0f")


def code_in(points: str) -> str:
    """The key from the code points in a file's name: "0023-FE0F-20E3" becomes "23-20e3"."""
    numbers = (point.lower().lstrip("0") for point in points.split("-"))
    return "-".join(number for number in numbers if number != "fe0f")


def code_key(code: str) -> tuple[int, ...]:
    """Sort key of a code: the numbers of its code points."""
    return tuple(int(point, 16) for point in code.split("-"))


def plain_words(text: str) -> str:
    """Lower-case words from a to z, digits and inner hyphens: "Côte d’Ivoire" becomes "cote divoire".

    Accents and apostrophes are dropped, other punctuation separates words, and "&", "#", "*" are spelled out.
    """
    text = unicodedata.normalize("NFKD", text.lower())
    for sign, word in SPELLED_OUT.items():
        text = text.replace(sign, word)
    text = re.sub(r"[^\x00-\x7f]|'", "", text)
    return " ".join(word.strip("-") for word in re.findall(r"[a-z0-9-]*[a-z0-9][a-z0-9-]*", text))


def tone_of(code: str) -> str:
    """The skin tone of a code: "", one of the values of `TONES`, or "mixed" where two people differ."""
    points = code.split("-")
    found = {TONES[point] for point in points if point in TONES}
    if len(found) > 1:
        return "mixed"
    return found.pop() if found else ""


def emoji_table() -> dict[str, Emoji]:
    """All named emoji, `{code: Emoji}`, sorted by code, without components (swatches of skin and hair).

    Names are the English CLDR short names (Unicode-3.0) of PyPI `emoji` (BSD-3-Clause). Its names of flags lack the
    word; "Greece" becomes "flag of greece" here.

    The identity is the code without skin tones. Unicode writes couples and handshakes of two tones as a longer
    sequence ("1faf1-1f3fb-200d-1faf2-1f3ff" is a handshake, "1f91d"), so an emoji whose name without tones is
    that of an untoned emoji takes the identity of that one.

    Raises:
        ImportError: PyPI `emoji` is not installed.
    """
    emoji = require("emoji")
    entries = emoji.EMOJI_DATA
    qualified, component = emoji.STATUS["fully_qualified"], emoji.STATUS["component"]
    spelled: dict[str, tuple[str, str]] = {}
    for text in sorted(entries, key=lambda text: (entries[text]["status"] != qualified, text)):  # FE0F where due
        if entries[text]["status"] == component:
            continue
        name = entries[text]["en"].strip(":").replace("_", " ")
        regional = all("\U0001f1e6" <= character <= "\U0001f1ff" for character in text)
        if regional or "\U000e007f" in text:  # letters of a country, or the tags of England, Scotland, Wales
            name = f"flag of {name}"
        spelled.setdefault(code_of(text), (text, plain_words(name)))
    untoned = {name: code for code, (_, name) in spelled.items() if not tone_of(code)}
    table = {}
    for code in sorted(spelled, key=code_key):
        text, name = spelled[code]
        tone = tone_of(code)
        identity = code
        if tone:
            bare = "-".join(point for point in code.split("-") if point not in TONES)
            identity = untoned.get(SPOKEN_TONE.sub("", name).removesuffix(" person person"), bare)
        table[code] = Emoji(text, name, identity, tone)
    return table


def squeezed(text: str) -> str:
    """A name normalised for comparison between tables: "Flag: Côte d’Ivoire" becomes "flagcotedivoire"."""
    return re.sub(r"[^a-z0-9]", "", plain_words(text))


def codes_by_name(table: Mapping[str, Emoji]) -> dict[str, str]:
    """`{squeezed name: code}` for all names of an emoji; a name that two emoji share belongs to the first kind below.

    They are its CLDR short name, the aliases in PyPI `emoji`, the Unicode name of its character ("face with cold
    sweat"), and for a flag the names used by icon sets ("flag for greece").
    """
    entries = require("emoji").EMOJI_DATA
    found: dict[str, str] = {}
    for code, entry in table.items():
        found.setdefault(squeezed(entry.name), code)
    for code, entry in table.items():
        for alias in entries[entry.text].get("alias", ()):
            found.setdefault(squeezed(alias.replace("_", " ")), code)
    for code, entry in table.items():
        if "-" not in code:
            found.setdefault(squeezed(unicodedata.name(chr(int(code, 16)), "")), code)
        if entry.name.startswith("flag of "):
            country = squeezed(entry.name.removeprefix("flag of "))
            found.setdefault(f"flagfor{country}", code)
            found.setdefault(f"flagforflag{country}", code)
    return found
