"""Labels the points of a plot without overlap between labels, points and error bars. Thin lines lead to labels further
away. The places depend only on the numbers."""

import itertools
from math import hypot
from typing import Any

SIZE = 8
"""Font size in points, the unit of all distances here."""

NEAR = 12
"""Largest distance between a point and its label without a line."""

MARK = 4
"""Radius of a point."""

ASTRAY = 30
"""Extra distance that a label may take to have no other point or error bar between it and its point."""

STEPS = sorted(
    (step for step in itertools.product(range(-90, 91, 6), range(-180, 181, 6)) if abs(step[0]) > MARK),
    key=lambda step: (hypot(*step), -step[0], -step[1]),
)
"""Steps from a point to the near end of its label, the shortest first."""


def label_points(axes: Any, points: dict[str, tuple[float, float, float, float]]) -> None:
    """Writes every label at the nearest free place; one without a free place is written close by, overlapping.

    Args:
        axes: the axes, with final position, limits and scales.
        points: name -> x, y and the ends of the error bar along y, in data coordinates.
    """
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    dots = axes.figure.dpi / 72
    frame = Bbox(axes.get_window_extent().get_points() / dots)

    def at(x: float, y: float) -> tuple[float, float]:
        return tuple(axes.transData.transform((x, y)) / dots)

    starts = {name: at(x, y) for name, (x, y, _, _) in points.items()}
    marks = [Bbox.from_extents(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in starts.values()]
    bars = [at(x, low) + at(x, high) for x, _, low, high in points.values()]
    marks += [Bbox.from_extents(x - 1, low, x + 1, high) for x, low, _, high in bars]
    names: list[Bbox] = []
    lines: list[Path] = []

    def place(start: tuple[float, float], width: float, height: float) -> tuple[tuple[int, int], Bbox, list[Path]]:
        """The best step, the label's box there, and the line to it, if it needs one."""
        close = Bbox.from_bounds(start[0] + MARK + 2, start[1] - height / 2, width, height)
        best, least = ((MARK + 2, 0), close, []), float("inf")
        others = [mark for mark in marks if not mark.padded(MARK).contains(*start)]
        for step in STEPS:
            if (far := hypot(*step)) >= least:
                break
            x, y = start[0] + step[0], start[1] + step[1]
            box = Bbox.from_bounds(x - (width if step[0] < 0 else 0), y - height / 2, width, height)
            if not (frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1):
                continue
            if box.count_overlaps(marks + names) or any(line.intersects_bbox(box, filled=False) for line in lines):
                continue
            path = Path([start, (x, y)])
            drawn = [path] if max(map(abs, step)) > NEAR else []
            if any(new.intersects_bbox(name, filled=False) for new in drawn for name in names):
                continue
            if any(new.intersects_path(line, filled=False) for new in drawn for line in lines):
                continue
            cost = far + ASTRAY * sum(path.intersects_bbox(mark, filled=False) for mark in others)
            if cost < least:
                best, least = (step, box, drawn), cost
        return best

    # From right to left, because a label is placed to the right of its point if possible.
    for name in sorted(points, key=lambda name: (-starts[name][0], starts[name][1], name)):
        text = axes.text(*points[name][:2], name, size=SIZE)
        extent = text.get_window_extent()
        text.remove()
        step, box, line = place(starts[name], extent.width / dots, extent.height / dots)
        names.append(box)
        lines += line
        axes.annotate(
            name,
            points[name][:2],
            xytext=step,
            textcoords="offset points",
            size=SIZE,
            ha="left" if step[0] > 0 else "right",
            va="center",
            arrowprops=dict(arrowstyle="-", color="0.5", linewidth=0.6, shrinkA=0, shrinkB=0, relpos=(step[0] < 0, 0.5))
            if line
            else None,
        )
