"""The tables of an experiment: means and deviations beside the paper's own figures, as Markdown, JSON and on screen."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixtune import metrics
from prefixtune.errors import ConfigError
from prefixtune.reproduce import search
from prefixtune.reproduce.experiment import Arm, Cell, Trained, Variable
from prefixtune.reproduce.material import Material
from prefixtune.reproduce.runner import Findings, Row
from prefixtune.training import results

MARKDOWN, JSON = "table.md", "table.json"
_GENERATION = ("beams", "max_new_tokens", "length_penalty")
"""Options that reach nothing where no text is generated."""


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


@dataclass(frozen=True)
class Grid:
    """One table: a title, the names of its columns and its lines."""

    title: str
    columns: list[str]
    lines: list[list[str]]


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


def grids(found: Findings) -> list[Grid]:
    """A table a corpus and size, then the means over corpora."""
    cells = list(dict.fromkeys((row.cell.corpus, row.cell.size) for row in found.rows))
    tables = [_cell_grid(found, [row for row in found.rows if (row.cell.corpus, row.cell.size) == c]) for c in cells]
    return tables + _means(found)


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


def caption(found: Findings) -> list[str]:
    """What a reader must know of the tables, a sentence or two each."""
    plan, experiment = found.plan, found.plan.experiment
    lines = [f"{experiment.paper}: {experiment.shows}.", f"Base model: {plan.options.model}."]
    if found.materials:
        trials = search.count_trials(experiment, plan.options)
        steps = f" of {plan.options.trial_steps} steps" if plan.options.trial_steps else ""
        lines.append(
            f"Mean (± sample deviation, where there are several) over {len(plan.draws) * len(plan.seeds)} runs a row "
            + (f"({len(plan.draws)} subsets x {len(plan.seeds)} seeds)" if len(plan.draws) > 1 else "(seeds)")
            + f", seeds {', '.join(map(str, plan.seeds))}. "
            + (
                f"Every row had {trials} trials{steps} with seed {plan.seeds[0]}, chosen among on development data "
                "alone; the test data were scored once, with the choice."
                if trials > 1
                else "Nothing was searched: every row has one setting."
            )
        )
        if experiment.sizes and len(plan.draws) == 1 < len(plan.seeds):
            lines.append(
                "All seeds share one draw of the examples, and the deviation leaves out their choice (--subsets N "
                "draws N times)."
            )
        changed = {"--limit": plan.options.limit, "--dev-limit": plan.options.dev_limit, **plan.options.changes()}
        changed |= {name: getattr(plan.options, name) for name in ("lr", "lengths", "sizes")}
        changed["rows"] = plan.options.methods
        told = _listed(_of_use({name: value for name, value in changed.items() if value is not None}, found.materials))
        lines.append(f"Changed from the paper's recipe: {told or 'nothing'}.")
        lines += [line for corpus in found.materials for line in _recipes(found, corpus)]
        lines += [_rows_of(found, corpus) for corpus in found.materials]
        lines += [line for corpus, one in found.materials.items() for line in _constants(corpus, one)]
        if held := [corpus for corpus, one in found.materials.items() if one.held_out]:
            lines.append(
                f"{', '.join(held)}: scored on the development set, as the papers do, since the test labels are "
                "hidden; but a tenth of the training data, held out, chose, where the papers let the same set choose."
            )
        if "conll2003" in found.materials and _is_corrected(found.materials["conll2003"]):
            lines.append(
                "conll2003: the files of CoNLL++, whose test tags are corrected; the papers' figures are of the "
                "original tags."
            )
        scored = {name for row in found.rows for name in metrics_of(found, row.cell)}
        every = dict.fromkeys(name for one in found.materials.values() for name in one.metrics)
        absent = {name: metrics.missing(name) for name in every if name not in scored}
        lines += [f"Left out: {name}: {reason}" for name, reason in absent.items() if reason]
    reasons = {row.arm.name: row.reason for row in found.rows if row.reason}
    lines += [f"Left out: {name}: {reason}" for name, reason in reasons.items()]
    if plan.options.quick:
        lines.append("A smoke run (--quick): its numbers mean nothing.")
    if experiment.notes:
        lines.append(experiment.notes)
    lines += dict.fromkeys(told for row in found.rows for told in experiment.departures(row.cell))
    if any(figure.unverified for figure in experiment.figures):
        lines.append("unverified: the figure could not be checked against the paper's own text.")
    lines += _other_versions(found)
    return lines + [f"Left out: {corpus}: {reason}" for corpus, reason in found.left_out.items()]


def _other_versions(found: Findings) -> list[str]:
    """What a resumed experiment mixes: a run that is finished is not made again by newer code."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in found.plan.output.rglob(results.RECORD)]
    now = {name: version for name, version in results.versions().items() if name != "platform"}
    differing = [
        {name: told for name, here in now.items() if (told := one["versions"].get(name, "untold")) != here}
        for one in records
    ]
    others = {name: sorted({one[name] for one in differing if name in one}) for name in now}
    told = [f"{name} {', '.join(before)} (here {now[name]})" for name, before in others.items() if before]
    count = sum(map(bool, differing))
    which = f"{count} of {len(records)} runs, trials counted,"
    return [f"{which} were begun with other versions than wrote this page: {'; '.join(told)}."] if told else []


def _is_corrected(data: Material) -> bool:
    return any(Path(table.name).name.startswith("conllpp") for table in data.tests.values())


def _rows_of(found: Findings, corpus: str) -> str:
    """What was read: a folder may hold a smaller or a corrected version of what the papers have."""
    data = found.materials[corpus]
    tests = ", ".join(f"{len(table):,} ({name})" for name, table in data.tests.items())
    train = f"{len(data.train):,} to train on, from {Path(data.train.name).name}"
    dev = f"{len(data.dev):,} to choose by"
    if not found.plan.experiment.sizes:
        return f"Rows of {corpus}: {train}, {dev}, {tests} to test on."
    return f"Rows of {corpus}: each run drew from {train}, and {dev}{_few(found, corpus)}; {tests} to test on."


def _few(found: Findings, corpus: str) -> str:
    """How many rows the runs of each size trained on and chose by, as their own records have it."""
    told = ""
    for cell in dict.fromkeys(row.cell for row in found.rows if row.cell.corpus == corpus):
        data = [record["data"] for record in _records(found, cell)]
        if data:
            train, dev = (_from_to([one[role]["rows"] for one in data]) for role in ("train", "eval"))
            told += f"{',' if told else ':'} with {cell.size} examples {train} and {dev}"
    return told


def _records(found: Findings, cell: Cell) -> list[dict[str, Any]]:
    """What the runs of a cell wrote down when they began."""
    plan = found.plan
    names = [plan.run_name(draw, seed) for draw in plan.draws for seed in plan.seeds]
    arms = [row.arm for row in found.rows if row.cell == cell]
    files = [plan.folder(cell, arm, name) / results.RECORD for arm in arms for name in names]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def _from_to(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _constants(corpus: str, data: Material) -> list[str]:
    """What a reader must not take for learning."""
    metric = data.metrics[0]
    scores = {test: data.constant(table) for test, table in data.tests.items()}
    told = [f"{value * factor(metric):.2f} ({test})" for test, value in scores.items() if value is not None]
    return [f"{corpus}: always the same answer has {metric} {', '.join(told)} at best."] if told else []


def _recipes(found: Findings, corpus: str) -> list[str]:
    """The recipe of a corpus; one for each of several sizes where it depends on them."""
    by_recipe: dict[str, list[int | None]] = {}
    for cell in dict.fromkeys(row.cell for row in found.rows if row.cell.corpus == corpus):
        recipe = _of_use(found.plan.recipe(cell), {corpus: found.materials[corpus]})
        told = _listed({key: value for key, value in recipe.items() if key != "epochs" or not recipe.get("max_steps")})
        by_recipe.setdefault(told, []).append(cell.size)
    few = {told: f", {', '.join(map(str, sizes))} examples" for told, sizes in by_recipe.items()}
    return [f"Recipe of {corpus}{few[told] if len(by_recipe) > 1 else ''}: {told}." for told in by_recipe]


def _of_use(settings: Mapping[str, Any], materials: Mapping[str, Material]) -> dict[str, Any]:
    """The settings without those of generation, where none of these corpora generates."""
    generates = any(data.task.kind == "text2text" for data in materials.values())
    return {name: value for name, value in settings.items() if generates or name not in _GENERATION}


def _listed(settings: Mapping[str, Any]) -> str:
    """Names and values, where a text that is no plain word (an end token) is shown as Python writes it."""

    def shown(value: Any) -> str:
        return f"`{value!r}`" if isinstance(value, str) and not re.fullmatch(r"[\w./ -]+", value) else str(value)

    return ", ".join(f"{name} {shown(value)}" for name, value in settings.items())


def markdown(found: Findings) -> str:
    """The whole page."""
    parts = [f"# {found.plan.name}", f"```bash\n{shlex.join(found.command)}\n```", *caption(found)]
    for grid in grids(found):
        rules = ["---", *["---:"] * (len(grid.columns) - 1)]
        lines = [grid.columns, rules, *grid.lines]
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
