"""The answers that finished runs kept, scored again: by another version of a metric, or by one that is there now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixtune.reproduce.experiment import Arm, Cell, Counted, Ensemble
from prefixtune.reproduce.material import Material
from prefixtune.reproduce.plan import Plan
from prefixtune.tasks import Task
from prefixtune.training import results
from prefixtune.training.bench import Data

Cells = Sequence[tuple[Cell, Sequence[Arm]]]


def rescored(plan: Plan, cells: Cells, materials: Mapping[str, Material]) -> dict[Path, dict[str, Any]]:
    """The metrics of every finished run that was tested, by its folder. Nothing is written: all are scored, or none.

    A score that cannot be computed here stays as it was.

    Raises:
        CheckpointError, ConfigError: a run without answers, or over other data.
    """
    return {
        folder: _again(folder, data, materials[cell.corpus or ""].task)
        for cell, arms in cells
        for arm in arms
        if not isinstance(arm, Counted)
        for folder, data in _finished(plan, cell, arm, materials[cell.corpus or ""])
    }


def _finished(plan: Plan, cell: Cell, arm: Arm, material: Material) -> Iterator[tuple[Path, Data]]:
    for draw in plan.draws:
        data = material.data(tested=True, size=cell.size, draw=draw, dev_share=plan.experiment.dev_share)
        for name in _runs(plan, arm, draw):
            folder = plan.folder(cell, arm, name)
            if (folder / results.METRICS).is_file():
                if not isinstance(arm, Ensemble):  # which trains on nothing, and keeps no record of it
                    results.check_same_data(folder, data.facts)
                yield folder, data


def _runs(plan: Plan, arm: Arm, draw: int) -> Iterable[str]:
    return [plan.together(draw)] if isinstance(arm, Ensemble) else [plan.run_name(draw, seed) for seed in plan.seeds]


def _again(folder: Path, data: Data, task: Task) -> dict[str, Any]:
    found = results.read_metrics(folder)
    counts = {name: task.answer_count(table) for name, table in data.tests.items()}
    scores = data.scores(task, results.read_answers(folder, counts))
    tests = {name: {**found["tests"].get(name, {}), **new} for name, new in scores.items()}
    return {**found, "tests": tests}
