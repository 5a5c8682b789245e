"""Pictures as PNG: the gates as a heat map of layers and positions, groups against the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixtune.training.curves import BLUE, PAPER, blank, png

GREY = "#999999"
_FEW = 32
"""Up to this many layers or positions, every one has its number and a white line to the next."""


@dataclass(frozen=True)
class Panel:
    """One heat map: `gates[l][p]` (NaN past a layer's length), and the layer gates beside it."""

    title: str
    layers: Sequence[int]
    gates: Sequence[Sequence[float]]
    layer_gates: Sequence[float]


def gates_png(panels: Sequence[Panel], title: str) -> bytes:
    """One heat map a panel, the layer gates beside it. Raises ConfigError without matplotlib."""
    heights = [max(_height(len(panel.layers)), 3.5) for panel in panels]
    figure = blank(9.0, sum(heights) + 0.5)
    grid = figure.subplots(len(panels), 2, width_ratios=(3.4, 1.0), height_ratios=heights, squeeze=False)
    for (heat, bars), panel in zip(grid, panels, strict=True):
        paint(figure, heat, bars, panel)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", parse_math=False)
    return png(figure)


def paint(figure: Any, heat: Any, bars: Any, panel: Panel) -> None:
    """Draw one panel on two axes: the gates, and the layer gates."""
    values = [value for row in panel.gates for value in row if not math.isnan(value)]
    low, high = min(values), max(values)
    # Blue is how far a position is open; where a layer gate turned its sign, red is open the other way.
    colours, low, high = ("Blues", 0.0, high) if low >= 0 else ("RdBu", -max(-low, high), max(-low, high))
    image = _heat(heat, panel.gates, colours, low, high if high > low else low + 1.0)
    _number(heat, panel.layers, len(panel.gates[0]))
    heat.set_title(panel.title, fontsize=10, loc="left", parse_math=False)
    figure.colorbar(image, ax=heat, location="left", fraction=0.03, pad=0.02).outline.set_visible(False)

    places = range(len(panel.layers))
    bars.barh(places, panel.layer_gates, color=BLUE, height=0.62)
    if len(panel.layers) <= _FEW:
        for place, value in zip(places, panel.layer_gates, strict=True):
            bars.annotate(
                f"{value:.2f}", (max(value, 0.0), place), (4, 0), textcoords="offset points", va="center", fontsize=9
            )
    bars.set_ylim(-0.5, len(panel.layers) - 0.5)
    edges = min(0.0, *panel.layer_gates) * 1.25, max(0.0, *panel.layer_gates) * 1.3
    bars.set_xlim(edges if edges[1] > edges[0] else (0.0, 1.0))
    bars.axvline(0, color=GREY, linewidth=0.8)
    bars.spines[:].set_visible(False)
    bars.tick_params(axis="y", which="both", length=0, labelleft=False)
    bars.tick_params(axis="x", labelbottom=False, length=0)
    bars.set_title("layer gate", fontsize=10, loc="left")


def groups_png(panels: Sequence[Panel], mean: Sequence[Sequence[float]], title: str) -> bytes:
    """How far each group's gates lie from the `mean` of all, small multiples on one scale of colours."""
    offsets = [_minus(panel.gates, mean) for panel in panels]
    most = max(abs(value) for rows in offsets for row in rows for value in row if not math.isnan(value)) or 1.0
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = blank(3.2 * columns + 1.0, rows * _height(len(panels[0].layers)) + 0.5)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (heat, panel, values) in enumerate(zip(axes, panels, offsets, strict=False)):
        image = _heat(heat, values, "RdBu", -most, most)
        _number(heat, panel.layers, len(values[0]), crowded=True)
        heat.set_title(panel.title, fontsize=10, loc="left", parse_math=False)
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
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", parse_math=False)
    return png(figure)


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
