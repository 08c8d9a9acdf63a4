"""Logs a training run as one JSON line per logged step, and plots its loss curve."""

import importlib.util
import json
from pathlib import Path

from ssd_jax.errors import UserError
from ssd_jax.files import replacing


class MetricLog:
    """Appends JSON lines to `path`; a resumed run first drops the lines of steps that it will repeat."""

    def __init__(self, path: Path, resume_at: int):
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= resume_at]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: round(float(v), 6) for k, v in values.items()}}) + "\n")


def read_log(path: Path) -> list[dict]:
    """The lines of a log; a line cut short by a crash is left out."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def require_plots() -> None:
    """Raises `UserError` without the package that plots the curves: at the end of a stage it would be too late."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('matplotlib, which draws the loss curves, is missing: pip install "ssd_jax[train]".')


def draw_curve(log: Path, picture: Path, title: str) -> None:
    """Draws the training loss, and the held-out loss where it was logged, against the step. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_log(log)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label in (("loss", "training batch"), ("heldout", "held-out")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.0 if key == "loss" else 2.0)
    axes.set(xlabel="step", ylabel="loss", title=title)
    if lines:
        axes.legend()
    axes.grid(alpha=0.3)
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=120)
