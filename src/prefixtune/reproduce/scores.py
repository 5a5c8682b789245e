"""What the runs of a row scored, over seeds and in the papers' units."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from prefixtune import metrics
from prefixtune.errors import ConfigError
from prefixtune.reproduce.experiment import Cell
from prefixtune.reproduce.runner import Findings, Row


@dataclass(frozen=True)
class Measured:
    """The same number of several runs, in the papers' unit; the deviation is that of a sample, None for one run."""

    mean: float
    deviation: float | None
    values: list[float]
    runs: int

    def told(self) -> str:
        """`84.12 ± 0.31`, and of how many runs where some lack the score, as where a metric was installed between."""
        some = "" if len(self.values) == self.runs else f" ({len(self.values)} of {self.runs} runs)"
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}") + some


def measured(row: Row, test: str, metric: str) -> Measured | None:
    """What the runs of a row scored; None where none has such a score."""
    values = [run["tests"][test][metric] * factor(metric) for run in row.runs if metric in run["tests"].get(test, {})]
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Measured(statistics.mean(values), deviation, values, len(row.runs))


def factor(metric: str) -> float:
    """What brings a score to the papers' unit."""
    try:
        return metrics.find(metric).paper_factor
    except ConfigError:
        return 1.0


def tests_of(found: Findings, cell: Cell) -> list[str]:
    """The names of a cell's tests."""
    return list(found.materials[cell.corpus].tests) if cell.corpus else []


def metrics_of(found: Findings, cell: Cell) -> list[str]:
    """The metrics of a cell's corpus that some run has a score of."""
    if not cell.corpus:
        return []
    rows = [row for row in found.rows if row.cell.corpus == cell.corpus]
    return [
        metric
        for metric in found.materials[cell.corpus].metrics
        if any(measured(row, test, metric) for row in rows for test in tests_of(found, cell))
    ]
