"""Drawings: sizes, colours, what a frame shows. No model is needed."""

import numpy as np
from PIL import Image

from ssd_jax.viz import MAX_FRAMES, STOPS, UNDRAWN, colours, comparison, frames, heat_map, write_gif


def picture(value: int = 7, size: int = 32) -> np.ndarray:
    """A colour that no letter has: those are grey."""
    return np.broadcast_to(np.array([value, 200, 0], np.uint8), (size, size, 3))


def places(sheet: np.ndarray, value: int) -> np.ndarray:
    """Rows and columns of the pixels of `picture(value)`, [N, 2]."""
    return np.argwhere((sheet == picture(value, 1)).all(-1))


def test_comparison_has_a_line_per_row_and_a_column_per_picture():
    rows = [("red apple, noto", [picture(10), picture(20)]), ("dog", [picture(30), picture(40)])]
    sheet = comparison(rows, [["ar: 16 passes, 0.1 s", "ssd"], ["ar", "ssd"]])
    assert sheet.dtype == np.uint8
    assert 2 * 96 <= sheet.shape[1] < 3 * 96  # images of 32 pixels, three times as large
    for value in (10, 20, 30, 40):
        assert len(places(sheet, value)) == 96 * 96
    assert places(sheet, 10)[:, 1].max() < places(sheet, 20)[:, 1].min()
    assert places(sheet, 10)[:, 0].max() < places(sheet, 30)[:, 0].min()


def test_colours_run_from_the_first_stop_to_the_last():
    found = colours(np.array([0.0, 0.25, 1.0]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, STOPS[[0, 1, -1]].astype(np.uint8))


def test_heat_map_has_a_square_per_token_and_a_legend():
    trace = np.array([[1, 2, 3], [4, 5, 9]])
    found = heat_map(trace, height=100)
    assert found.shape[0] == 100
    assert found.shape[1] > 150
    np.testing.assert_array_equal(found[25, 25], STOPS[0])
    np.testing.assert_array_equal(found[75, 125], STOPS[-1])
    assert (found[:, 150:] < 100).any()  # the legend
    heat_map(np.ones((2, 2), int))  # one pass for all: no division by zero


def test_frames_show_a_token_from_its_pass_on():
    trace = np.array([[1, 2], [3, 3]])
    found, passes = frames(picture(size=8), trace)
    assert passes == [1, 2, 3]
    drawn = [(frame != UNDRAWN).any(-1).reshape(2, 4, 2, 4).all((1, 3)) for frame in found]
    for frame, number in zip(drawn, passes, strict=True):
        np.testing.assert_array_equal(frame, trace <= number)
    np.testing.assert_array_equal(found[-1], picture(size=8))


def test_frames_are_few_and_end_with_the_picture():
    trace = np.arange(1, 257).reshape(16, 16)
    found, passes = frames(picture(), trace)
    assert len(found) == MAX_FRAMES
    assert (passes[0], passes[-1]) == (1, 256)
    assert passes == sorted(set(passes))


def test_gif_plays_all_frames_and_holds_the_last(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found, _ = frames(image, np.arange(1, 17).reshape(4, 4))
    write_gif(tmp_path / "a.gif", found, milliseconds=50, hold=1500)
    with Image.open(tmp_path / "a.gif") as file:
        assert file.n_frames == 16
        assert file.info["loop"] == 0
        durations = []
        for index in range(file.n_frames):
            file.seek(index)
            durations.append(file.info["duration"])
        assert durations == [50] * 15 + [1500]
        last = np.asarray(file.convert("RGB")).astype(int)
    assert np.abs(last - image).mean() < 12  # 255 colours
