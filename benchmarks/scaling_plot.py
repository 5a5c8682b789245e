"""The picture of `scaling.py`: every cost against each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "P": "prefix length P",
    "T": "tokens a text T",
    "B": "texts a batch B",
    "L": "layers L",
    "N": "prefixes in a batch of 32",
}
COLOURS = {
    "frozen floor": "0.4",
    "bare model": "0.4",
    "load the base": "0.4",
    "P-Tuning v2": "C0",
    "APT": "C1",
    "PEFT prefix": "C2",
    "PEFT LoRA r=8": "C3",
    "full fine-tuning": "C4",
    "adapters prefix": "C5",
}


def plot(
    found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], axes: Mapping[str, Sequence[int]],
    units: Mapping[str, tuple[str, float]], path: Path,
) -> None:  # fmt: skip
    """A row of panels for each kind of cost, a column for each axis, to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (4 * len(axes), 3.2 * len(found) + 0.6)
    figure, panels = plt.subplots(len(found), len(axes), figsize=size, squeeze=False, layout="constrained")
    known: dict[str, Any] = {}
    for row, kind in enumerate(found):
        for column, (axis, values) in enumerate(axes.items()):
            if axis not in found[kind]:
                panels[row, column].set_axis_off()
                continue
            unit, scale = units[kind]
            for way, costs in found[kind][axis].items():
                style = {"color": COLOURS[way], "markersize": 4}
                (line,) = panels[row, column].loglog(values, [cost * scale for cost in costs], "o-", **style)
                known.setdefault(way if COLOURS[way] != "0.4" else "floor (frozen model, bare model, loading)", line)
            _finish(panels[row, column], axis, values)
        panels[row, 0].set_ylabel(f"{kind}, {unit}")
    figure.legend(known.values(), known, loc="outside upper center", ncols=len(known), frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _finish(panel: Any, axis: str, values: Sequence[int]) -> None:
    """Plain numbers on both axes."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    panel.set_xlabel(TITLES[axis])
    panel.set_xticks(values, [str(value) for value in values])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(True, which="major", alpha=0.3)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
