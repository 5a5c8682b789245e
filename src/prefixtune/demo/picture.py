"""A picture of the gates: which layers, and which positions in them, the trained prefix leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefixtune.checkpoint import write_whole
from prefixtune.probe.picture import Panel, gates_png


def draw_gates(gates: Sequence[Sequence[float]], layer_gates: Sequence[float], title: str, path: Path) -> None:
    """Write a PNG of the gates.

    Args:
        gates: `[L, P]`, layer gate times token gate, averaged over the tokens of a data set.
        layer_gates: `[L]`, the layer gates alone.
        title: what was trained on what.
        path: the PNG file to write; it appears whole or not at all.
    """
    panel = Panel("gate = layer gate × token gate", range(len(gates)), gates, layer_gates)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole({path: gates_png([panel], title)})
