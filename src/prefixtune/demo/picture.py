"""A picture of the gates: which layers, and which positions in them, the trained prefix leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefixtune.errors import ConfigError


def draw_gates(gates: Sequence[Sequence[float]], layer_gates: Sequence[float], title: str, path: Path) -> None:
    """Write a PNG of the gates.

    Args:
        gates: `[L, P]`, layer gate times token gate, averaged over the tokens of a data set.
        layer_gates: `[L]`, the layer gates alone.
        title: what was trained on what.
        path: the PNG file to write; it appears whole or not at all.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the picture of the gates needs matplotlib: pip install 'prefixtune[plots]'") from error
    layers, length = len(gates), len(gates[0])
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    heat, bars = figure.subplots(1, 2, width_ratios=(3.4, 1.0), sharey=True)

    top = max(max(row) for row in gates)
    bottom = min(0.0, min(min(row) for row in gates))
    image = heat.imshow(gates, cmap="Blues", vmin=bottom, vmax=top, aspect="auto", origin="lower")
    heat.set_xticks(range(length), [str(position + 1) for position in range(length)])
    heat.set_yticks(range(layers), [str(layer + 1) for layer in range(layers)])
    heat.set_xticks([position - 0.5 for position in range(1, length)], minor=True)
    heat.set_yticks([layer - 0.5 for layer in range(1, layers)], minor=True)
    heat.grid(which="minor", color="white", linewidth=1.5)
    heat.tick_params(which="both", length=0)
    heat.spines[:].set_visible(False)
    heat.set_xlabel("position in the prefix")
    heat.set_ylabel("layer")
    heat.set_title("gate = layer gate × token gate", fontsize=10, loc="left")
    figure.colorbar(image, ax=heat, location="left", fraction=0.03, pad=0.02).outline.set_visible(False)

    bars.barh(range(layers), layer_gates, color="#2171b5", height=0.62)
    for layer, value in enumerate(layer_gates):
        bars.annotate(
            f"{value:.2f}", (max(value, 0.0), layer), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    bars.set_xlim(min(0.0, *layer_gates) * 1.25, max(0.0, *layer_gates) * 1.3)
    bars.axvline(0, color="#999999", linewidth=0.8)
    bars.spines[:].set_visible(False)
    bars.tick_params(axis="y", which="both", length=0, labelleft=False)
    bars.tick_params(axis="x", labelbottom=False, length=0)
    bars.set_title("layer gate", fontsize=10, loc="left")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    figure.savefig(draft, format="png", dpi=150)
    draft.replace(path)
