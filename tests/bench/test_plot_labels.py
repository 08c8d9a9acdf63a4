"""Names in a plot: none overlaps another, a point or an error bar, and none leaves the panel."""

import itertools

import pytest

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from ssd_jax.bench.plot_labels import label_points  # noqa: E402

CROWD = {f"decoder {n}": (74.0 + 0.2 * (n % 3), 0.02 * (n % 2), -0.1, 0.1) for n in range(8)}
POINTS = {
    **CROWD,
    "ar": (256.0, 0.0, 0.0, 0.0),
    "slanted": (22.0, 2.2, 1.9, 2.5),
    "at the edge": (300.0, 1.0, 0.5, 1.5),
}


def labelled(points):
    figure = Figure(figsize=(6.5, 5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xscale="log", xlim=(20, 310), ylim=(-0.5, 3.0))
    figure.draw_without_rendering()
    label_points(axes, points)
    figure.draw_without_rendering()
    return axes, {text.get_text(): Text.get_window_extent(text) for text in axes.texts}


def test_every_name_has_a_place_of_its_own():
    axes, boxes = labelled(POINTS)
    assert set(boxes) == set(POINTS)
    frame = axes.get_window_extent()
    for name, box in boxes.items():
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1, name
        for x, y, low, high in POINTS.values():
            for value in (y, low, high):
                assert not box.contains(*axes.transData.transform((x, value))), name
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert not a.overlaps(b), (one, other)
    lines = [text for text in axes.texts if text.arrow_patch is not None]
    assert 0 < len(lines) < len(CROWD)  # a name beside its point needs none


def test_places_are_the_same_every_time():
    first, second = (labelled(POINTS)[1] for _ in range(2))
    assert all((first[name].get_points() == second[name].get_points()).all() for name in POINTS)


def test_a_name_without_a_place_does_not_disturb_the_others():
    long = "a name that is wider than the panel " * 5
    boxes = labelled({**POINTS, long: (280.0, 0.5, 0.4, 0.6)})[1]
    others = [(name, box) for name, box in boxes.items() if name != long]
    for (one, a), (other, b) in itertools.combinations(others, 2):
        assert not a.overlaps(b), (one, other)
