"""The picture of `scaling.py`: time against each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
    "P-Tuning v2": "C0",
    "APT": "C1",
    "PEFT prefix": "C2",
    "PEFT LoRA r=8": "C3",
    "full fine-tuning": "C4",
    "adapters prefix": "C5",
}


def plot(found: Mapping[str, Mapping[str, Sequence[float]]], axes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Seconds of every quantity, training above decoding, to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    size = (4 * len(axes), 7)
    figure, panels = plt.subplots(2, len(axes), figsize=size, sharex="col", squeeze=False, layout="constrained")
    for column, (axis, values) in enumerate(axes.items()):
        for name, times in found[axis].items():
            kind, way = name.split(", ")
            panel = panels[0 if kind == "training" else 1, column]
            panel.loglog(values, [t * 1000 for t in times], "o-", color=COLOURS[way], label=way, markersize=4)
            panel.set_ylabel(f"{kind} step, ms" if column == 0 else "")
            panel.grid(True, which="major", alpha=0.3)
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        panels[1, column].set_xlabel(TITLES[axis])
        panels[1, column].set_xticks(values, [str(value) for value in values])
        panels[1, column].xaxis.set_minor_locator(NullLocator())
    lines, ways = panels[0, 0].get_legend_handles_labels()
    ways[0] += " (decoding: bare model)"
    figure.legend(lines, ways, loc="outside upper center", ncols=len(ways), frameon=False)
    figure.savefig(path, dpi=80)
