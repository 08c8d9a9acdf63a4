"""PJD's loop against a slow one that keeps whatever was ever fed, and what its rows may do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
import toy
from image_laws import GRID, SAMPLES, every_image, of_images, p_value

from ssd_jax.decode import acceptance
from ssd_jax.decode.pjd import PJD
from ssd_jax.decode.presets import require_fits
from ssd_jax.errors import UserError
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling.noise import (
    Tag,
    fresh_keys,
    gumbel,
    gumbel_noise,
    image_keys,
    position_keys,
    uniform,
    uniform_codes,
)
from ssd_jax.sequence.layout import Grid

ROW_ENDS = toy.Toy(toy.config(row_end=1))
MOST = 320
"""Inputs of all passes of an image of the slow loop, padding included."""


@partial(jax.jit, static_argnums=(0, 1))
def forward(model: toy.Toy, guided: bool, prompt, real, ids, places, seen):
    """log p of what follows the prompt's last token and every entry."""
    network, params, S = Transformer(model.config), model.params, prompt.shape[1]
    x = network.apply(params, jnp.concatenate([prompt, ids], axis=1), method="embed")
    slots = jnp.concatenate([jnp.broadcast_to(jnp.arange(S), (len(ids), S)), places + S], axis=1)
    rotary = jnp.maximum(slots - (S - real.sum(1))[:, None], 0)
    hidden, _ = network.apply(params, x, rotary, seen, method="hidden")
    logits = network.apply(params, hidden[:, S - 1 :], method="logits")
    if guided:
        logits = logits[1:] + 2.0 * (logits[:1] - logits[1:])
    return jax.nn.log_softmax(logits[0].astype(jnp.float32))


@partial(jax.jit, static_argnums=(0, 3, 5))
def fresh(kind, key, position, tag: Tag, t, *size: int):
    """A draw of a kind of noise for a position in pass t."""
    return kind(fresh_keys(position_keys(key, position[None, None]), tag, t[None]), *size)[0, 0]


class Slow:
    """One image by loops over rows. Each input is an entry of its own, with its token, place, and what it saw: nothing
    that was fed in an earlier pass changes when its place is fed again."""

    def __init__(self, model: toy.Toy, grid: Grid, decoder: PJD, image: int, guided: bool):
        self.model, self.grid, self.decoder, self.guided = model, grid, decoder, guided
        self.key = image_keys(jnp.zeros(1, jnp.int32), jnp.array([image]))
        kinds, mask = toy.prompts(image + 1, guided)
        rows = [image, 2 * image + 1] if guided else [image]
        self.prompt, self.real = np.asarray(kinds)[rows], np.asarray(mask)[rows]
        self.pitch = grid.cols + (model.config.row_end_id >= 0)
        self.entries: list[tuple[int, int, list[int]]] = []  # id, place, entries that it saw
        self.current: dict[int, int] = {}  # place -> entry

    def log_p(self) -> np.ndarray:
        """Of what follows the prompt, then of what follows each entry."""
        S = self.prompt.shape[1]
        ids, places = np.zeros(MOST, np.int32), np.zeros(MOST, np.int32)
        image = np.eye(MOST, dtype=bool)
        for number, (code, place, seen) in enumerate(self.entries):
            ids[number], places[number], image[number, seen] = code, place, True
        masks = []
        for real in self.real:
            mask = np.zeros((S + MOST, S + MOST), bool)
            mask[:S, :S] = np.tril(np.ones((S, S), bool)) & real | np.eye(S, dtype=bool)
            mask[S:, :S], mask[S:, S:] = real, image
            masks.append(mask)
        rows = len(self.real)
        both = (np.broadcast_to(each, (rows, MOST)) for each in (ids, places))
        return np.asarray(forward(self.model, self.guided, self.prompt, self.real, *both, np.stack(masks)))

    def fresh(self, kind, position: int, tag: Tag, t: int, *size: int) -> np.ndarray:
        return np.asarray(fresh(kind, self.key, np.int32(position), tag, np.int32(t), *size))

    def draw(self, log_p, position: int, tag: Tag, t: int) -> int:
        with np.errstate(divide="ignore"):
            return int(np.argmax(log_p + self.fresh(gumbel, position, tag, t, len(log_p))))

    def guess(self, position: int, t: int, tokens: np.ndarray, newest: int) -> int:
        if self.decoder.drafter == "random":
            return int(self.fresh(uniform_codes, position, Tag.DRAFT, t, self.model.config.visual_size))
        return int(tokens[position - self.grid.cols] if position >= self.grid.cols else newest)

    def draw_image(self) -> tuple[np.ndarray, int]:
        R, C, V = self.grid.rows, self.grid.cols, self.model.config.visual_size
        W, offset = self.decoder.window, self.model.config.visual_offset
        context, most = self.decoder.threshold(self.grid), self.decoder.at_once(self.grid)
        tokens, counts, begun, t = np.zeros(R * C, np.int32), [1] + [0] * (R - 1), 1, 1
        noise = np.asarray(gumbel_noise(self.key, jnp.zeros((1, 1), jnp.int32), V))[0, 0]
        tokens[0] = np.argmax(self.log_p()[0] + noise)
        drafts: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(R)]
        while (top := next((r for r in range(R) if counts[r] < C), R)) < R:
            if begun < min(R, top + most) and counts[begun - 1] >= context:
                begun += 1
            fed, windows = [], {}  # (id, place, row) of every input; of every row, its first input and its drafts
            for r in range(top, begun):
                room = (C if r == top else counts[r - 1]) - counts[r]
                start = r * C + counts[r]
                newest = tokens[start - 1] if counts[r] else tokens[(r - 1) * C + counts[r - 1] - 1]
                window = drafts[r][: min(W, room) - 1]
                for position in range(start + len(window), start + min(W, room) - 1):
                    code = self.guess(position, t, tokens, tokens[counts[0] - 1])
                    window.append((code, np.eye(V)[code]))
                place = r * self.pitch + counts[r] - 1
                is_row_end = counts[r] == 0 and self.pitch > C
                first = self.model.config.row_end_id if is_row_end else newest + offset
                windows[r] = len(fed), window
                fed.append((first, place, r))
                fed += [(code + offset, place + 1 + j, r) for j, (code, _) in enumerate(window)]
            last = (top - 1) * self.pitch + C - 1
            if top and last not in [place for _, place, _ in fed]:
                fed.append((tokens[top * C - 1] + offset, last, top - 1 if self.pitch > C else top))
            base = len(self.entries)
            self.current |= {place: base + number for number, (_, place, _) in enumerate(fed)}
            for code, place, row in fed:
                begins = row * self.pitch - 1
                own = [p for p in range(begins, place + 1) if p in self.current]
                final = [r * self.pitch + c for r in range(row) for c in range(counts[r])]
                ends = [(r + 1) * self.pitch - 1 for r in range(row - 1) if self.pitch > C]
                self.entries.append((code, place, [self.current[p] for p in {*own, *final, *ends}]))
            log_p, t = self.log_p()[1 + base :], t + 1
            for r, (first, window) in windows.items():
                out = log_p[first : first + len(window) + 1]
                self.verify(r, r == top, window, out, tokens, counts, drafts, t)
        return tokens, t

    def verify(self, r, is_top, window, log_p, tokens, counts, drafts, t) -> None:
        """Accepts a row's drafts from the left, commits, and drafts what follows."""
        start, rejected, new = r * self.grid.cols + counts[r], False, []
        for j, (code, q) in enumerate(window):
            position, p = start + j, np.exp(log_p[j])
            if not rejected:
                u = float(self.fresh(uniform, position, Tag.ACCEPT, t))
                if u < p[code] / q[code]:
                    tokens[position], counts[r] = code, counts[r] + 1
                    continue
                rejected = True
                if is_top:
                    with np.errstate(divide="ignore"):
                        token = self.draw(np.log(np.maximum(p - q, 0)), position, Tag.RESIDUAL, t)
                    tokens[position], counts[r] = token, counts[r] + 1
                    continue
            elif self.decoder.tail == "keep" and p[code] / q[code] > 0.5:
                new.append((code, q))
                continue
            new.append((self.draw(log_p[j], position, Tag.RESAMPLE, t), p))
        position = start + len(window)
        token = self.draw(log_p[-1], position, Tag.RESAMPLE, t)
        if is_top and not rejected:
            tokens[position], counts[r] = token, counts[r] + 1
        else:
            new.append((token, np.exp(log_p[-1])))
        drafts[r] = new


LOOPS = {
    "published": (PJD(window=3, context=2), toy.TOY, Grid(4, 4), True),
    "published, row ends": (PJD(window=3, context=2), ROW_ENDS, Grid(4, 4), False),
    "released, row ends": (PJD(window=6, context=3, tail="keep"), ROW_ENDS, Grid(3, 7), True),
    "copies, two rows at once": (
        PJD(window=6, context=2, rows=2, drafter="above", tail="keep"),
        toy.TOY,
        Grid(3, 7),
        False,
    ),
    "complete rows, row ends": (PJD(window=3, context=4), ROW_ENDS, Grid(3, 4), True),
}


@pytest.mark.parametrize(("decoder", "model", "grid", "guided"), LOOPS.values(), ids=LOOPS)
def test_equals_a_slow_loop(decoder, model, grid, guided):
    images = 3
    out = toy.decode(model, decoder, grid, images=images, cfg_scale=2.0 if guided else None, heads=None)
    slow = [Slow(model, grid, decoder, image, guided).draw_image() for image in range(images)]
    np.testing.assert_array_equal(out.tokens, [tokens for tokens, _ in slow])
    np.testing.assert_array_equal(out.passes, [passes for _, passes in slow])


@pytest.mark.parametrize("decoder", [PJD(window=4, context=c) for c in (1, 5)], ids=str)
@pytest.mark.parametrize("grid", [Grid(5, 8), Grid(8, 3), Grid(6, 1)], ids=str)
def test_rows_begin_in_turn_and_stay_behind(decoder, grid):
    """A token is final after the one above it and that one's right neighbour; the topmost row commits in every pass."""
    out = stub.decode(decoder, grid)
    trace = np.asarray(out.trace).reshape(-1, grid.rows, grid.cols)
    c = decoder.threshold(grid)
    for row in range(1, grid.rows):
        ahead = trace[:, row - 1, np.minimum(np.arange(grid.cols) + 1, grid.cols - 1)]
        assert (trace[:, row] > ahead).all()
        assert (trace[:, row, 0] > trace[:, row - 1, c - 1]).all()
        if row >= decoder.at_once(grid):
            assert (trace[:, row, 0] > trace[:, row - decoder.at_once(grid), -1]).all()
    for image, passes in zip(trace, np.asarray(out.passes), strict=True):
        assert set(image.ravel()) == set(range(1, passes + 1))


@pytest.mark.parametrize(
    ("grid", "window", "context"),
    [
        (Grid(1, 1), 8, None),
        (Grid(4, 1), 8, None),
        (Grid(1, 6), 4, 2),
        (Grid(5, 6), 3, 3),
        (Grid(5, 6), 2, 1),
        (Grid(5, 6), 6, 2),
        (Grid(5, 6), 4, 6),
        (Grid(7, 3), 3, 1),
    ],
    ids=str,
)
def test_passes_if_every_draft_is_accepted(grid, window, context):
    """With a vocabulary of one code."""
    decoder = PJD(window=window, context=context)
    found = stub.decode(decoder, grid, images=1, codes=1).passes
    assert sum(stretch.passes for stretch in decoder.stretches(grid, 0)) == found[0]


def test_more_passes_cost_more():
    (_, few), (_, many) = (PJD().stretches(Grid(16, 16), 0, passes) for passes in (None, 60.5))
    assert (few.window, few.outputs) == (5 * 8 + 1, 5 * 8) == (many.window, many.outputs)
    assert few.passes < many.passes == 59.5


def follows_the_law(decoder, grid=GRID, **how) -> float:
    law = of_images(stub.forced(every_image(3), grid, 0.8, 3), 3)
    return p_value(stub.decode(decoder, grid, images=SAMPLES, codes=3, sharpness=0.8, **how).tokens, law, 3)


@pytest.mark.parametrize("drafter", ["random", "above"])
def test_complete_rows_make_it_lossless(drafter):
    assert follows_the_law(PJD(window=3, context=GRID.cols, drafter=drafter)) > 1e-3


def test_a_single_row_is_lossless():
    assert follows_the_law(PJD(window=5), Grid(1, GRID.size)) > 1e-3


def test_incomplete_rows_are_not():
    assert follows_the_law(PJD(window=3, context=1)) < 1e-9


def test_nor_without_the_residual(monkeypatch):
    monkeypatch.setattr(acceptance, "residual", lambda log_p, log_q: log_p)
    assert follows_the_law(PJD(window=3, context=GRID.cols, drafter="above"), program=stub.fresh_program()) < 1e-9


def test_an_image_does_not_depend_on_its_neighbours():
    decoder, _, grid, _ = LOOPS["published"]
    together = toy.decode(toy.TOY, decoder, grid, images=3, heads=None)
    alone = toy.decode(toy.TOY, decoder, grid, images=1, numbers=[2], which=0, heads=None)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[2])
    assert alone.passes[0] == together.passes[2]


def test_options_are_checked():
    assert [PJD(context=c).threshold(Grid(9, 18)) for c in (None, 4, 18, 19)] == [5, 4, 18, 18]
    for option in ({"window": 7}, {"context": 7}):
        PJD(**{"window": 6, "context": 6} | {name: 6 for name in option}).check(Grid(3, 6))
        with pytest.raises(
            UserError, match="window and context must be at most a row of the image, which has 6 tokens"
        ):
            require_fits(PJD(**{"window": 6, "context": 6} | option), Grid(3, 6))
    with pytest.raises(UserError, match="4 rows at once are more than the 3"):
        require_fits(PJD(window=6, rows=4), Grid(3, 6))
    for bad, message in (
        ({"rows": 0}, "rows must be a whole number of at least 1, not 0"),
        ({"window": 1}, "window must be a whole number of at least 2, not 1"),
        ({"context": 2.5}, "context must be a whole number of at least 1, not 2.5"),
        ({"drafter": "left"}, "Unknown drafter 'left'; choose one of random, above"),
        ({"tail": "drop"}, "Unknown tail 'drop'; choose one of redraw, keep"),
    ):
        with pytest.raises(UserError, match=message):
            PJD(**bad)
