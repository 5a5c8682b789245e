"""Pictures as PNG: the gates as a heat map of layers and positions, groups against the mean."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
import warnings
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefixtune.training.curves import BLUE, PAPER, blank, png

GREY = "#999999"
_FEW = 32
"""Up to this many layers or positions, every one has its number and a white line to the next."""
_WIDTH, _SMALL = 9.0, 3.2
"""Inches of the picture of all gates, and of one group."""
_LEFT = "\N{LEFT-TO-RIGHT MARK}"
_LACKS = r"Glyph \d+ .*missing from "
"""How matplotlib begins to say that a font has no such character."""


@dataclass(frozen=True)
class Panel:
    """One heat map: `gates[l][p]` (NaN past a layer's length), and the layer gates beside it.

    `count` says how many examples or words it is over, after the title; where there is little room, it stays whole.
    """

    title: str
    layers: Sequence[int]
    gates: Sequence[Sequence[float]]
    layer_gates: Sequence[float]
    count: str = ""


def gates_png(panels: Sequence[Panel], title: str) -> bytes:
    """One heat map a panel, the layer gates beside it. Raises ConfigError without matplotlib.

    All panels share one scale of colours and one of bars, as the variable prefix shares one budget over all sites by
    these numbers.
    """
    heights = [max(_height(len(panel.layers)), 3.5) for panel in panels]
    figure = blank(_WIDTH, sum(heights) + 0.5)
    grid = figure.subplots(len(panels), 2, width_ratios=(3.4, 1.0), height_ratios=heights, squeeze=False)
    colours, edges = _colours(panels), _edges(panels)
    for (heat, bars), panel in zip(grid, panels, strict=True):
        image = _heat(heat, panel.gates, *colours)
        _number(heat, panel.layers, len(panel.gates[0]))
        heat.set_title(panel.title, fontsize=10, loc="left", parse_math=False)
        _bars(bars, panel, edges)
    bar = figure.colorbar(image, ax=list(grid[:, 0]), location="left", fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)
    _head(figure, title)
    return png(figure)


def _colours(panels: Sequence[Panel]) -> tuple[str, float, float]:
    """The colours and their range. Blue is how far a position is open; where a layer gate turned its sign, red is open
    the other way."""
    values = [value for panel in panels for row in panel.gates for value in row if not math.isnan(value)]
    low, high = min(values), max(values)
    most = max(-low, high) or 1.0
    return ("Blues", 0.0, most) if low >= 0 else ("RdBu", -most, most)


def _edges(panels: Sequence[Panel]) -> tuple[float, float]:
    """The range of the bars, with room for their numbers."""
    values = [value for panel in panels for value in panel.layer_gates]
    edges = min(0.0, *values) * 1.25, max(0.0, *values) * 1.3
    return edges if edges[1] > edges[0] else (0.0, 1.0)


def _bars(axes: Any, panel: Panel, edges: tuple[float, float]) -> None:
    """The layer gates of one panel."""
    places = range(len(panel.layers))
    axes.barh(places, panel.layer_gates, color=BLUE, height=0.62)
    if len(panel.layers) <= _FEW:
        for place, value in zip(places, panel.layer_gates, strict=True):
            axes.annotate(
                f"{value:.2f}", (max(value, 0.0), place), (4, 0), textcoords="offset points", va="center", fontsize=9
            )
    axes.set_ylim(-0.5, len(panel.layers) - 0.5)
    axes.set_xlim(edges)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", which="both", length=0, labelleft=False)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.set_title("layer gate", fontsize=10, loc="left")


def groups_png(panels: Sequence[Panel], mean: Sequence[Sequence[float]], title: str) -> bytes:
    """How far each group's gates lie from the `mean` of all, small multiples on one scale of colours."""
    offsets = [_minus(panel.gates, mean) for panel in panels]
    most = max(_largest(offsets), _NOISE * _largest([mean]), 1e-12)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = blank(_SMALL * max(columns, 2) + 1.0, rows * _height(len(panels[0].layers)) + 0.5)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (heat, panel, values) in enumerate(zip(axes, panels, offsets, strict=False)):
        image = _heat(heat, values, "RdBu", -most, most)
        _number(heat, panel.layers, len(values[0]), crowded=True)
        _fit(heat.set_title(panel.title, fontsize=10, loc="left", parse_math=False), _SMALL - 0.35, panel.count)
        if place % columns:
            heat.set_yticks([])
            heat.set_ylabel("")
        if place + columns < len(panels):
            heat.set_xticks([])
            heat.set_xlabel("")
    for heat in axes[len(panels) :]:
        heat.set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="left", fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)
    _head(figure, title)
    return png(figure)


_NOISE = 1e-3
"""Differences below this share of the largest gate stay pale: rounding would else be a picture in full colours."""


def _largest(grids: Iterable[Sequence[Sequence[float]]]) -> float:
    return max((abs(value) for rows in grids for row in rows for value in row if not math.isnan(value)), default=0.0)


@contextmanager
def missing_glyphs_told() -> Iterator[None]:
    """Tell in one line that the font lacks characters; matplotlib warns of each of them, each time it draws one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _LACKS, UserWarning)
        yield
    others = [warning for warning in caught if not re.match(_LACKS, str(warning.message))]
    for warning in others:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    if len(others) < len(caught):
        logging.getLogger("prefixtune").warning(
            "the pictures' font lacks characters of some names; the page and its tables have them as they are"
        )


def _head(figure: Any, title: str) -> None:
    """The title of the whole picture."""
    text = figure.suptitle(title, fontsize=12, x=0.01, ha="left", parse_math=False)
    _fit(text, figure.get_figwidth() * 0.97)


def _fit(text: Any, inches: float, ending: str = "") -> None:
    """Add the ending to a drawn text, and leave out the text's middle where both would be wider than `inches`.

    They would reach into a neighbour or over the edge. Names of one kind often begin alike, so the end stays, too.
    """
    name = " ".join(text.get_text().split())

    def width(kept: int) -> float:
        shown = name if kept == len(name) else f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
        right = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in shown)
        text.set_text(f"{_LEFT}{shown}{_LEFT}{ending}" if right else shown + ending)  # else the ending is drawn inside
        return float(text.get_window_extent().width) / text.get_figure().dpi

    if width(len(name)) > inches:
        width(bisect(range(len(name)), inches, key=width) - 1)


def _heat(axes: Any, values: Sequence[Sequence[float]], colours: str, low: float, high: float) -> Any:
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", origin="lower")
    axes.set_facecolor(PAPER)  # NaN is transparent
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


def _number(axes: Any, layers: Sequence[int], length: int, crowded: bool = False) -> None:
    """Numbers and white lines; a label every so often where there are many."""
    most = _FEW // 3 if crowded else _FEW
    across, up = math.ceil(length / most), math.ceil(len(layers) / most)
    axes.set_xticks(range(0, length, across))
    axes.set_yticks(range(0, len(layers), up), [str(layer) for layer in layers[::up]])
    if length <= _FEW:
        axes.set_xticks([place - 0.5 for place in range(1, length)], minor=True)
    if len(layers) <= _FEW:
        axes.set_yticks([place - 0.5 for place in range(1, len(layers))], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8 if crowded else 1.5)
    axes.set_xlabel("position in the prefix", fontsize=9)
    axes.set_ylabel("layer", fontsize=9)


def _height(layers: int) -> float:
    """Inches of one heat map."""
    return 1.4 + min(max(0.3 * layers, 0.9), 6.0)


def _minus(values: Sequence[Sequence[float]], mean: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[a - b for a, b in zip(row, other, strict=True)] for row, other in zip(values, mean, strict=True)]
