"""Draws the bench's two plots. Needs matplotlib (extra [eval] or [train])."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_jax.bench.plot_labels import label_points
from ssd_jax.eval.estimates import Estimate
from ssd_jax.files import replacing

MEASURES = (("nll difference", "NLL per token, difference to ar (nats)", 1.0), ("kid", "KID x 1000 to ar", 1e3))

COLOURS = {"ar's images": "tab:blue", "others, lossless": "tab:green", "others": "tab:orange"}
"""Kind of a decoder's images -> colour of its points."""

DPI = 100

TICKS = tuple(float(f"{digit}e{power}") for power in range(-3, 5) for digit in (1, 2, 5))


LINEAR = 0.1
"""Nats per token up to which the axis of the difference to `ar` is linear."""


def quality_against_passes(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel per available measure; a point per decoder with its 95 % interval; the band is that of `ar`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = [measure for measure in MEASURES if any(measure[0] in row for row in rows.values())]
    figure = Figure(figsize=(8 * len(measures), 7.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    drawn = [_panel(axes, rows, *measure) for axes, measure in zip(panels, measures, strict=True)]
    figure.draw_without_rendering()  # lays out the panels
    for axes, points in zip(panels, drawn, strict=True):
        label_points(axes, points)
    panels[0].legend(title="draws", loc="upper right")
    _save(figure, path)


def _panel(axes: Any, rows: dict[str, dict[str, Any]], key: str, label: str, factor: float) -> dict[str, tuple]:
    """One measure of all decoders; returns name -> (x, y, lower end of the interval, upper end) of those to label: of
    decoders that draw `ar`'s images, which lie on a line, the quickest alone."""
    points, exact = {}, {name: row["passes"] for name, row in rows.items() if row.get("equal pictures") == 1}
    quickest = min(exact, key=exact.__getitem__, default=None)
    for kind, colour in COLOURS.items():
        axes.plot([], [], "o", color=colour, label=kind)
    for name, row in ((name, row) for name, row in rows.items() if key in row):  # not all timed decoders have quality
        if key != "nll difference" and row["equal pictures"] == 1 and name != "ar":
            continue  # at `ar`'s point by definition, with many others
        estimate: Estimate = row[key]
        y, low, high = (factor * value for value in (estimate.value, estimate.low, estimate.high))
        # An interval of NaN has no bar.
        kind = "ar's images" if row["equal pictures"] == 1 else "others, lossless" if row["lossless"] else "others"
        axes.errorbar([row["passes"]], [y], yerr=[[y - low], [high - y]], fmt="o", capsize=3, color=COLOURS[kind])
        if kind != "ar's images" or name in ("ar", quickest):
            points[name] = (row["passes"], y, *((y, y) if math.isnan(low) else (low, high)))
        if name == "ar" and key != "nll difference":
            axes.axhspan(low, high, color="0.9", zorder=0)
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(xscale="log", xlabel="verifier passes per image", ylabel=label)
    if key == "nll difference":  # from hundredths of a nat to several
        axes.set_yscale("symlog", linthresh=LINEAR)
        axes.set_ylim(bottom=min([-LINEAR, *(low for *_, low, _ in points.values())]))
        _label_numbers(axes.yaxis, (0.0, *(tick for tick in TICKS if tick >= LINEAR / 2)))
    _label_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    return points


def pass_against_window(curve: dict[int, float], path: Path) -> None:
    """Milliseconds per pass by window, and what they would be if wider windows were free, or cost in proportion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    windows, times = list(curve), [1e3 * seconds for seconds in curve.values()]
    axes.plot(windows, times, "o-", label="measured")
    axes.plot(windows, [times[0]] * len(windows), ":", color="0.5", label="free")
    axes.plot(windows, [times[0] * window for window in windows], "--", color="0.5", label="in proportion")
    axes.set_xscale("log", base=2)
    axes.set(yscale="log", xlabel="window, positions per pass", ylabel="ms per verifier pass, batch 1")
    axes.set_ylim(min(times) / 1.5, max(times) * 2)
    _label_numbers(axes.yaxis)
    axes.set_xticks(windows, [str(window) for window in windows])
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def _label_numbers(axis: Any, numbers: Sequence[float] = TICKS) -> None:
    """Those of the numbers that a logarithmic axis shows as its ticks, written out."""
    low, high = axis.get_view_interval()
    ticks = [tick for tick in numbers if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
