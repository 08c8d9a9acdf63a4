"""Decoders by name and their options; every bad one is refused in one clear sentence."""

import re

import jax
import pytest
import toy

from ssd_jax.decode import engine
from ssd_jax.decode.acceptance import Group
from ssd_jax.decode.ar import AR
from ssd_jax.decode.base import KINDS
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.presets import PRESETS, find_decoder, require_fits, require_heads
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.wave import Wave
from ssd_jax.errors import UserError
from ssd_jax.sequence.layout import Grid

NEED_HEADS = {"mtp": (1, 0), "ssd": (1, 1), "ssd2": (1, 2), "ssd-exact": (1, 1), "ssd-tree": (1, 1), "ssd-wave": (1, 1)}


def test_the_names():
    names = "ar sjd scd scd-gumbel sjd-pac gsd mtp ssd ssd2 ssd-exact ssd-tree ssd-wave"
    names += " jacobi-match jacobi-above jacobi-wave pjd flash"
    assert set(PRESETS) == set(names.split())
    assert all(find_decoder(name) is decoder and hash(decoder) for name, decoder in PRESETS.items())
    assert {type(decoder) for decoder in PRESETS.values()} == set(KINDS.values())
    assert find_decoder(SSD(rounds=0)) == SSD(rounds=0)


def test_which_are_lossless():
    others = {name for name, decoder in PRESETS.items() if not decoder.lossless}
    assert others == {"gsd", "ssd", "ssd2", "ssd-wave", "jacobi-wave", "pjd", "flash"}
    assert SSD(rounds="auto").lossless and not SSD(rounds=5).lossless


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: find_decoder("fastest"), "Unknown decoder 'fastest'; choose one of ar, sjd"),
        (lambda: find_decoder(3), "Unknown decoder 3"),
        (lambda: Raster(window=0), "window must be a whole number of at least 1, not 0"),
        (lambda: Raster(window=2.5), "window must be a whole number"),
        (lambda: Raster(rows=0), "rows must be a whole number of at least 1"),
        (lambda: Raster(drafter="below"), "Unknown drafter 'below'; choose one of random, left"),
        (lambda: Raster(coupling="tight"), "Unknown coupling 'tight'; choose one of resample"),
        (lambda: Raster(acceptance="kind", coupling="resample"), "Unknown acceptance 'kind'"),
        (lambda: Raster(acceptance="grouped"), "match coupling accepts by equality"),
        (lambda: Raster(history=-1), "history must be a whole number of at least 0"),
        (lambda: Raster(history=8, coupling="gumbel"), "Only the match coupling has a history"),
        (lambda: AR(window=0), "window must be a whole number of at least 1, not 0"),
        (lambda: require_fits(AR(window=13), Grid(3, 4)), "A window of 13 is larger than the image, which has 12"),
        (lambda: MTP(drafts=0), "drafts must be a whole number of at least 1, not 0"),
        (lambda: Group(size=0), "size must be a whole number of at least 1"),
        (lambda: Group(delta=-1.0), "delta must be None or at least 0"),
        (lambda: SSD(rounds=-1), 'rounds must be a whole number of at least 0 or "auto", not -1'),
        (lambda: SSD(rounds="often"), "rounds must be"),
        (lambda: SSD(rounds=True), "rounds must be"),
        (lambda: SSD(rows=3), "rows must be 1 or 2"),
        (lambda: SSD(schedule="later"), "Unknown schedule 'later'"),
        (lambda: SSD(mask="column"), "Unknown mask 'column'"),
        (lambda: SSD(schedule="staged"), "staged schedule needs rows=2"),
        (lambda: SSD(rounds="auto", rows=2, schedule="staged"), "fixed number of rounds"),
        (lambda: SSD(extra_rounds=1), "extra_rounds belong to the staged schedule"),
        (lambda: SSD(extra_rounds=-1), "extra_rounds must be"),
        (lambda: SSD(rounds="auto", mask="row"), "needs the raster mask"),
        (lambda: Wave(down=0.5), "down must be a number between 1 and 10000, not 0.5"),
        (lambda: Wave(right=-0.5), "right must be a number between 0 and 10000, not -0.5"),
        (lambda: Wave(right=float("nan")), "right must be a number between 0 and 10000, not nan"),
        (lambda: Wave(down="2"), "down must be a number between 1 and 10000, not '2'"),
        (lambda: Wave(depth=0), "depth must be a whole number of at least 1"),
        (lambda: Wave(down=10**400), "down must be a number between 1 and 10000"),
        (lambda: Wave(drafter="left"), "Unknown drafter 'left'; choose one of random, above, spatial"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("name", PRESETS)
def test_heads_are_asked_for_only_where_they_are_needed(name):
    if name == "flash":
        require_heads(PRESETS[name], 0, 0, 1)
        with pytest.raises(UserError, match="flash needs a vertical branch.*jacobi-above"):
            require_heads(PRESETS[name], 9, 9, 0)
        return
    if name not in NEED_HEADS:
        require_heads(PRESETS[name], 0, 0)
        return
    horizontal, vertical = NEED_HEADS[name]
    require_heads(PRESETS[name], horizontal, vertical)
    for few in {(0, 0), (horizontal - 1, vertical), (horizontal, max(vertical - 1, 0))} - {(horizontal, vertical)}:
        with pytest.raises(UserError, match=f"The decoder {name} needs draft heads.*jacobi-above"):
            require_heads(PRESETS[name], *few)


def test_missing_heads_stop_before_anything_is_traced(monkeypatch):
    monkeypatch.setattr(engine, "prefill", lambda *_: pytest.fail("the model was traced"))
    with pytest.raises(UserError, match="needs draft heads"):
        toy.decode(toy.TOY, "ssd", Grid(3, 3), images=1, heads=None)


@pytest.mark.parametrize(
    ("decoder", "most"),
    [
        (lambda n: Raster(window=n, drafter="left"), 12),
        (lambda n: Raster(rows=n, drafter="left"), 3),
        (lambda n: Raster(history=n, window=4), 12),
        (lambda n: MTP(drafts=n - 1), 12),
        (lambda n: Wave(down=(n - 5) / 2, right=1), 13),
    ],
    ids=["window", "rows", "history", "mtp", "wave"],
)
def test_a_window_larger_than_the_picture_is_refused(decoder, most):
    require_fits(decoder(most), Grid(3, 4))
    with pytest.raises(
        UserError,
        match=f"{most + 1}.*more than|window of 13 is larger.*12 tokens|{most + 1} passes is (too slow|longer)",
    ) as caught:
        require_fits(decoder(most + 1), Grid(3, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_cut_to_any_picture(name):
    for grid in (Grid(1, 1), Grid(1, 9), Grid(9, 1)):
        require_fits(PRESETS[name], grid)


def test_decoders_are_static_arguments():
    calls = []
    f = jax.jit(lambda x, decoder: (calls.append(decoder), x)[1], static_argnames="decoder")
    for decoder in (SSD(rounds=1), SSD(rounds=1), Raster(window=3), Raster(window=3)):
        f(1.0, decoder=decoder)
    assert calls == [SSD(rounds=1), Raster(window=3)]
