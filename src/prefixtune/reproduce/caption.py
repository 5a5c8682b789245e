"""What a reader must know of the tables: the recipe and what was changed of it, what was read, and what is amiss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixtune import metrics
from prefixtune.reproduce import search
from prefixtune.reproduce.experiment import Arm, Cell, Ensemble, Trained, Variable, stretched
from prefixtune.reproduce.material import Material
from prefixtune.reproduce.runner import Findings
from prefixtune.reproduce.scores import factor, metrics_of
from prefixtune.training import results

_GENERATION = ("beams", "max_new_tokens", "length_penalty")
"""Options that reach nothing where no text is generated."""


def caption(found: Findings) -> list[str]:
    """What a reader must know of the tables, a sentence or two each."""
    told = [*_head(found)]
    if found.materials:
        told += [*_trials(found), *_changes(found), *_data(found), *_absent_metrics(found)]
    told += [*_absent_rows(found), *_notes(found)]
    for cell in dict.fromkeys(row.cell for row in found.rows):
        told += [*_lengths(found, cell), *_cuts(found, cell), *_precisions(found, cell)]
    return [*told, *_other_versions(found), *(f"Left out: {name}: {why}" for name, why in found.left_out.items())]


def _head(found: Findings) -> list[str]:
    experiment = found.plan.experiment
    return [f"{experiment.paper}: {experiment.shows}.", f"Base model: {found.plan.options.model}."]


def _trials(found: Findings) -> Iterator[str]:
    """How many runs a row is the mean of, and how its setting was chosen."""
    plan, experiment = found.plan, found.plan.experiment
    trials = search.count_trials(experiment, plan.options)
    steps = f" of {plan.options.trial_steps} steps" if plan.options.trial_steps else ""
    drawn = f"({len(plan.draws)} subsets x {len(plan.seeds)} seeds)" if len(plan.draws) > 1 else "(seeds)"
    chosen = (
        f"Every row had {trials} trials{steps} with seed {plan.seeds[0]}, chosen among on development data alone; the "
        "test data were scored once, with the choice."
    )
    yield (
        f"Mean (± sample deviation, where there are several) over {len(plan.draws) * len(plan.seeds)} runs a row "
        f"{drawn}, seeds {', '.join(map(str, plan.seeds))}. "
        + (chosen if trials > 1 else "Nothing was searched: every row has one setting.")
    )
    if together := dict.fromkeys(row.arm.name for row in found.rows if isinstance(row.arm, Ensemble)):
        yield f"{', '.join(together)}: the runs of all seeds as one predictor, without settings of its own."
    if experiment.sizes and len(plan.draws) == 1 < len(plan.seeds):
        yield (
            "All seeds share one draw of the examples, and the deviation leaves out their choice (--subsets N draws N "
            "times)."
        )


def _changes(found: Findings) -> list[str]:
    """The recipe, and what an option changed of it."""
    options = found.plan.options
    changed = {"--limit": options.limit, "--dev-limit": options.dev_limit, **options.changes()}
    changed |= {name: getattr(options, name) for name in ("lr", "lengths", "sizes")}
    changed["rows"] = options.methods
    told = _listed(_of_use({name: value for name, value in changed.items() if value is not None}, found.materials))
    recipes = [line for corpus in found.materials for line in _recipes(found, corpus)]
    return [f"Changed from the paper's recipe: {told or 'nothing'}.", *recipes]


def _data(found: Findings) -> Iterator[str]:
    """How many rows were read, and where they are not the papers'."""
    yield from (_rows_of(found, corpus) for corpus in found.materials)
    yield from (line for corpus, one in found.materials.items() for line in _constants(corpus, one))
    if held := [corpus for corpus, one in found.materials.items() if one.held_out]:
        yield (
            f"{', '.join(held)}: scored on the development set, as the papers do, since the test labels are hidden; "
            "but a tenth of the training data, held out, chose, where the papers let the same set choose."
        )
    if "conll2003" in found.materials and _is_corrected(found.materials["conll2003"]):
        yield (
            "conll2003: the files of CoNLL++, whose test tags are corrected; the papers' figures are of the original "
            "tags."
        )


def _absent_metrics(found: Findings) -> list[str]:
    scored = {name for row in found.rows for name in metrics_of(found, row.cell)}
    every = dict.fromkeys(name for one in found.materials.values() for name in one.metrics)
    absent = {name: metrics.missing(name) for name in every if name not in scored}
    return [f"Left out: {name}: {reason}" for name, reason in absent.items() if reason]


def _absent_rows(found: Findings) -> list[str]:
    """Rows without runs, and settings that do not fit, with the corpus where it is not all that have the row."""
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for row in found.rows:
        reasons = {row.arm.name: row.reason} if row.reason else {}
        reasons |= {f"{row.arm.name} with {told}": why for told, why in row.misfits.items()}
        for name, why in reasons.items():
            cells.setdefault((row.arm.name, name, why), []).append(row.cell)
    lines = []
    for (arm, name, why), places in cells.items():
        everywhere = len(places) == sum(row.arm.name == arm for row in found.rows)
        lines.append(f"Left out: {name}{'' if everywhere else f' ({_places(places)})'}: {why}")
    return lines


def _places(cells: Sequence[Cell]) -> str:
    return ", ".join(" ".join(str(part) for part in (cell.corpus, cell.size) if part is not None) for cell in cells)


def _notes(found: Findings) -> Iterator[str]:
    """What the experiment itself has to say of its numbers."""
    experiment = found.plan.experiment
    if found.plan.options.quick and found.materials:
        yield "A smoke run (--quick): its numbers mean nothing."
    if experiment.notes:
        yield experiment.notes
    yield from dict.fromkeys(told for row in found.rows for told in experiment.departures(row.cell))
    if any(figure.unverified for figure in experiment.figures):
        yield "unverified: the figure could not be checked against the paper's own text."


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


def _lengths(found: Findings, cell: Cell) -> list[str]:
    """Rows that are of one size by their names, but chose among lengths."""
    rows = [row for row in found.rows if row.cell == cell and row.chosen and "length" in row.chosen.options]
    chosen = {row.arm.name: row.chosen.options["length"] for row in rows if row.chosen}
    stretch = {row.arm.name: row.arm.stretch for row in rows if isinstance(row.arm, Trained)}
    asked = found.plan.options.lengths or ()
    plain = {length for length in asked if all(chosen[name] == stretched(length, stretch[name]) for name in chosen)}
    compared = set(stretch.values()) != {1.0} or any(isinstance(row.arm, Variable) for row in found.rows)
    if plain or len(chosen) < 2 or not compared:
        return []
    told = ", ".join(f"{name} {length}" for name, length in chosen.items())
    return [f"{cell.corpus}: rows chose lengths that do not go together, so that they are not of one size: {told}."]


def _cuts(found: Findings, cell: Cell) -> list[str]:
    """Rows whose prefixes take positions from the text read less of it than the others, where it is long."""
    told = {}
    for row in (row for row in found.rows if row.cell == cell):
        rooms = [one["room"] for one in _records(found, cell, [row.arm]) if "room" in one]
        if rooms:
            told[row.arm.name] = max((room["filled"], room["positions"], room["inputs"]) for room in rooms)
    if len(set(told.values())) < 2 or not any(filled for filled, *_ in told.values()):
        return []
    rows = ", ".join(f"{name} {filled:,} of {of:,} at {room} tokens" for name, (filled, room, of) in told.items())
    return [f"{cell.corpus}: rows have unequal room for inputs, which are cut where it is full: {rows}."]


def _precisions(found: Findings, cell: Cell) -> list[str]:
    """Rows that train the base's own weights have all of it in full precision, where the others have 16 bits."""
    told: dict[str, list[str]] = {}
    for arm in (row.arm for row in found.rows if row.cell == cell):
        for dtype in {one["base_dtype"] for one in _records(found, cell, [arm]) if "base_dtype" in one}:
            told.setdefault(dtype, []).append(arm.name)
    if len(told) < 2:
        return []
    rows = "; ".join(f"{', '.join(names)} in {dtype}" for dtype, names in sorted(told.items()))
    return [f"{cell.corpus}: rows were trained and scored over a base of unequal precision: {rows}."]


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


def _records(found: Findings, cell: Cell, arms: Sequence[Arm] | None = None) -> list[dict[str, Any]]:
    """What the runs of a cell, or of some of its rows, wrote down when they began."""
    plan = found.plan
    names = [plan.run_name(draw, seed) for draw in plan.draws for seed in plan.seeds]
    arms = [row.arm for row in found.rows if row.cell == cell] if arms is None else arms
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
