"""Pictures as PNG: a run's loss and metric over its steps, and what every picture of a report begins and ends with."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefixtune.errors import ConfigError

BLUE, ORANGE, PAPER = "#2171b5", "#d94801", "#eeeeee"
History = Sequence[Mapping[str, Any]]
Curve = tuple[str, str, str]
"""The key in the history, what it is, and its colour."""
TRAINING, DEVELOPMENT = ("loss", "training", BLUE), ("eval_loss", "development", ORANGE)


def history_png(history: History, metric: str | None, *, sentence_sum: bool) -> bytes | None:
    """Training and development loss, and the metric beside them, over steps; None where nothing was logged.

    Args:
        metric: what the run was chosen by.
        sentence_sum: the training loss is summed over a sentence; development's, of a token, has a panel of its own.

    Raises:
        ConfigError: without matplotlib.
    """
    panels = [(title, drawn) for title, curves in _panels(metric, sentence_sum) if (drawn := _points(history, curves))]
    if not panels:
        return None
    figure = blank(4.5 * max(len(panels), 2), 3.0)
    for axes, (title, drawn) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, points, colour in drawn:
            marker = "o" if label == "development" or len(points) == 1 else None  # a line needs two
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=3)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=PAPER)
        axes.legend(frameon=False, fontsize=9)
    return png(figure)


def _panels(metric: str | None, sentence_sum: bool) -> Iterator[tuple[str, list[Curve]]]:
    if sentence_sum:
        yield "loss of a sentence", [TRAINING]
        yield "loss of a token", [DEVELOPMENT]
    else:
        yield "loss", [TRAINING, DEVELOPMENT]
    if metric not in (None, "loss"):
        yield str(metric), [(f"eval_{metric}", "development", ORANGE)]


def _points(history: History, curves: Sequence[Curve]) -> list[tuple[str, list[tuple[Any, Any]], str]]:
    found = [
        (label, [(entry["step"], entry[key]) for entry in history if key in entry], colour)
        for key, label, colour in curves
    ]
    return [curve for curve in found if curve[1]]


def check_library() -> None:
    """Raise ConfigError without matplotlib."""
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'prefixtune[plots]'") from error


def blank(width: float, height: float) -> Any:
    """An empty figure of so many inches. Raises ConfigError without matplotlib."""
    check_library()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """A figure as the bytes of its file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()
