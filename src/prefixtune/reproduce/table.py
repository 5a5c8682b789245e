"""The tables of an experiment: means and deviations beside the paper's own figures, as Markdown, JSON and on screen."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixtune.reproduce.caption import caption
from prefixtune.reproduce.experiment import Arm, Cell, Trained, Variable
from prefixtune.reproduce.runner import Findings, Row
from prefixtune.reproduce.scores import measured, metrics_of, tests_of
from prefixtune.training import results

MARKDOWN, JSON = "table.md", "table.json"


@dataclass(frozen=True)
class Grid:
    """One table: a title, the names of its columns and its lines."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def grids(found: Findings) -> list[Grid]:
    """A table a corpus and size, then the means over corpora."""
    cells = list(dict.fromkeys((row.cell.corpus, row.cell.size) for row in found.rows))
    tables = [_cell_grid(found, [row for row in found.rows if (row.cell.corpus, row.cell.size) == c]) for c in cells]
    return tables + _means(found)


def _cell_grid(found: Findings, rows: Sequence[Row]) -> Grid:
    cell = rows[0].cell
    names, tests = metrics_of(found, cell), tests_of(found, cell)
    experiment = found.plan.experiment
    figures = [f for f in experiment.figures if (f.corpus, f.size) == (cell.corpus, cell.size) and f.metric in names]
    bases = list(dict.fromkeys((f.base, f.unverified) for f in figures))
    columns = ["row", *(["test"] if len(tests) > 1 else []), *names]
    columns += [_paper(*base) for base in bases]
    columns += ["trained", "stored", "% of base", *(["seconds", "chosen"] if cell.corpus else [])]
    lines = []
    for row in rows:
        for test in tests or [""]:
            values = [measured(row, test, name) for name in names]
            line = [row.arm.name, *([test] if len(tests) > 1 else [])]
            line += ["–" if value is None else value.told() for value in values]
            for base, _ in bases:
                theirs = {
                    f.metric: f.value
                    for f in figures
                    if f.base == base and f.arm == row.arm.name and f.test in (test, None)
                }
                line.append(" / ".join(f"{theirs[name]:g}" for name in names if name in theirs) or "–")
            lines.append([*line, *_sizes(row), *(_cost(row) if cell.corpus else [])])
    size = "" if cell.size is None else f", {cell.size} training examples"
    return Grid(f"{cell.corpus}{size}" if cell.corpus else "parameters", columns, lines)


def _paper(base: str, unverified: bool) -> str:
    """The name of a column of the paper's own figures."""
    return f"paper, {base}" + (" (unverified)" if unverified else "")


def _sizes(row: Row) -> list[str]:
    if not row.runs:
        return ["–"] * 3
    sizes = [run["parameters"] for run in row.runs]
    trained, stored, share = (statistics.mean(s[key] for s in sizes) for key in ("trained", "stored", "stored_percent"))
    return [f"{trained:,.0f}", f"{stored:,.0f}", f"{share:.3f}"]


def _cost(row: Row) -> list[str]:
    known = [run["seconds"] for run in row.runs if run["seconds"] is not None]  # not of runs that were killed once
    seconds = f"{statistics.mean(known):.0f}" if known else "–"
    diverged = f"; {row.diverged} of {row.diverged + len(row.runs)} runs diverged" if row.diverged else ""
    return [seconds, (row.chosen.told() if row.chosen else "–") + diverged]


def _means(found: Findings) -> list[Grid]:
    """Means over the corpora that are compared by one metric: SuperGLUE's accuracies, NER's F1."""
    groups: dict[tuple[str, int | None], list[Cell]] = {}
    for cell in dict.fromkeys(row.cell for row in found.rows):
        if names := metrics_of(found, cell):
            groups.setdefault((names[0], cell.size), []).append(cell)
    tables = []
    names_of_rows = list(dict.fromkeys(row.arm.name for row in found.rows))
    for (metric, size), cells in groups.items():
        if len(cells) < 2:
            continue
        theirs = _paper_means(found, cells, metric)
        lines = []
        for name in names_of_rows:
            if (ours := _mean(found, cells, name, metric)) is not None:
                told = [f"{round(means[name], 2):g}" if name in means else "–" for means in theirs.values()]
                lines.append([name, f"{ours:.2f}", *told])
        over = ", ".join(str(cell.corpus) for cell in cells)
        few = "" if size is None else f", {size} training examples"
        tables.append(Grid(f"mean over {over}{few}", ["row", metric, *theirs], lines))
    return tables


def _mean(found: Findings, cells: Sequence[Cell], name: str, metric: str) -> float | None:
    """The mean of a row over cells; None unless every one has a score of it."""
    rows = {row.cell: row for row in found.rows if row.arm.name == name}
    scores = [measured(rows[cell], tests_of(found, cell)[-1], metric) for cell in cells if cell in rows]
    known = [score.mean for score in scores if score]
    return statistics.mean(known) if len(known) == len(cells) else None


def _paper_means(found: Findings, cells: Sequence[Cell], metric: str) -> dict[str, dict[str, float]]:
    """By column and row: what the paper has as its mean over all corpora of the experiment where these are they, else
    the mean of its figures of these corpora where it has them all."""
    experiment = found.plan.experiment
    tests = {cell.corpus: tests_of(found, cell)[-1] for cell in cells}
    values: dict[tuple[str, str], dict[str | None, float]] = {}
    for f in experiment.figures:
        if (f.metric, f.size) == (metric, cells[0].size) and f.test in (tests.get(f.corpus), None):
            values.setdefault((_paper(f.base, f.unverified), f.arm), {})[f.corpus] = f.value
    means: dict[str, dict[str, float]] = {}
    for (column, arm), one in values.items():
        if None in one and set(tests) == set(experiment.corpora):
            means.setdefault(column, {})[arm] = one[None]
        elif set(tests) <= set(one):
            means.setdefault(column, {})[arm] = statistics.mean(one[corpus] for corpus in tests)
    return means


def markdown(found: Findings) -> str:
    """The whole page."""
    parts = [f"# {found.plan.name}", f"```bash\n{shlex.join(found.command)}\n```", *caption(found)]
    for grid in grids(found):
        rules = ["---", *["---:"] * (len(grid.columns) - 1)]
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (grid.columns, rules, *grid.lines)]
        parts += [f"## {grid.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def as_json(found: Findings) -> dict[str, Any]:
    """Everything that the tables were made of."""
    return {
        "experiment": found.plan.name,
        "caption": caption(found),
        "options": found.plan.options.record(),
        "seeds": found.plan.seeds,
        "rows": [_row_json(found, row) for row in found.rows],
        "paper": [vars(figure) for figure in found.plan.experiment.figures],
        "left_out": found.left_out,
        "versions": results.versions(),
    }


def _row_json(found: Findings, row: Row) -> dict[str, Any]:
    scores = {
        test: {name: vars(value) for name in metrics_of(found, row.cell) if (value := measured(row, test, name))}
        for test in tests_of(found, row.cell)
    }
    return {
        "corpus": row.cell.corpus,
        "size": row.cell.size,
        "row": row.arm.name,
        "x": row.arm.x,
        **_what(row.arm),
        "scores": scores,
        "parameters": row.runs[0]["parameters"] if row.runs else None,
        "seconds": [run.get("seconds") for run in row.runs],
        "chosen": None if row.chosen is None else {**row.chosen.recipe, **row.chosen.options},
        "trials": [{**one.recipe, **one.options, "dev": value} for one, value in row.trials],
        "diverged": row.diverged,
        "reason": row.reason,
    }


def _what(arm: Arm) -> dict[str, Any]:
    if isinstance(arm, Trained):
        return {"kind": arm.kind, "options": dict(arm.options)}
    return {"kind": type(arm).__name__.lower(), "options": dict(arm.options) if isinstance(arm, Variable) else {}}
