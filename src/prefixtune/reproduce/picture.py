"""The plots of an experiment: lines over its axis or over the number of examples where there are several, else bars."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefixtune.checkpoint import write_whole
from prefixtune.errors import ConfigError
from prefixtune.reproduce import scores
from prefixtune.reproduce.runner import Findings, Row
from prefixtune.training import curves


def draw(found: Findings, output: Path) -> list[Path]:
    """A PNG for every corpus, by its main metric. None, and one line, without matplotlib."""
    try:
        curves.check_library()
    except ConfigError as error:
        print(f"no plots: {error}", file=sys.stderr)
        return []
    pictures = {}
    for corpus in dict.fromkeys(row.cell.corpus for row in found.rows if row.cell.corpus):
        rows = [row for row in found.rows if row.cell.corpus == corpus]
        names = scores.metrics_of(found, rows[0].cell)
        for test in scores.tests_of(found, rows[0].cell) if names else ():
            figure = curves.blank(7, 4)
            axes = figure.subplots()
            _draw(axes, found, rows, test, names[0])
            axes.set_title(f"{found.plan.name}: {corpus}" + (f" ({test})" if test != "test" else ""))
            pictures[output / f"{corpus}-{re.sub(r'[^a-z0-9]+', '-', test.lower())}.png"] = curves.png(figure)
    write_whole(pictures)
    return list(pictures)


def _draw(axes: Any, found: Findings, rows: Sequence[Row], test: str, metric: str) -> None:
    points = [(row, value) for row in rows if (value := scores.measured(row, test, metric)) is not None]
    if len({row.cell.size for row, _ in points}) > 1:
        _lines(axes, [(row.arm.name, float(row.cell.size or 0), value) for row, value in points])
        axes.set_xlabel("training examples")
    elif len({row.arm.x for row, _ in points} - {None}) > 1:
        _lines(axes, [(row.arm.series, row.arm.x, value) for row, value in points if row.arm.x is not None])
        axes.set_xlabel(found.plan.experiment.axis or "")
    else:
        places = range(len(points))
        axes.barh(places, [value.mean for _, value in points], xerr=[value.deviation or 0 for _, value in points])
        axes.set_yticks(places, [row.arm.name for row, _ in points])
        axes.invert_yaxis()
        axes.set_xlabel(metric)
        return
    axes.set_ylabel(metric)
    axes.legend(frameon=False)


def _lines(axes: Any, points: Sequence[tuple[str, float, scores.Measured]]) -> None:
    for series in dict.fromkeys(name for name, _, _ in points):
        own = sorted((x, value.mean, value.deviation or 0) for name, x, value in points if name == series)
        axes.errorbar(*zip(*own, strict=True), fmt="o-", label=series, capsize=3)
    axes.set_xscale("log")
    ticks = sorted({x for _, x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
    axes.set_xticks([], minor=True)
