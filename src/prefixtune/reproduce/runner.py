"""Run an experiment: every run in a folder of its own, finished ones skipped, a killed one resumed."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefixtune import reproduce as catalogue
from prefixtune.errors import ConfigError, DataError, ModelError, NoRoom, Unsuited
from prefixtune.probe import lengths
from prefixtune.reproduce import derive, material, search
from prefixtune.reproduce.checks import check
from prefixtune.reproduce.experiment import Arm, Cell, Counted, Ensemble, Trained, Variable
from prefixtune.reproduce.material import Material, Place
from prefixtune.reproduce.options import Options
from prefixtune.reproduce.plan import Plan, Unfit, adaptation, read_base, with_candidate
from prefixtune.reproduce.progress import Screen
from prefixtune.reproduce.rescoring import rescored
from prefixtune.reproduce.search import Candidate
from prefixtune.tasks.loading import check_class
from prefixtune.training import results
from prefixtune.training.adaptation import Adaptation
from prefixtune.training.bench import Data
from prefixtune.training.run import Diverged, fit

RECORD = "experiment.json"
DIVERGED, RESUMED = "diverged.json", "resumed.json"
SCORED = ("bertscore",)
"""Options that reach scores alone."""
_FROM_GATES = ("lengths", "sites")
"""Settings of a variable prefix that another run's gates gave it; they are not read again for a finished run."""
_ORIGIN = "One run of prefixtune reproduce; the whole command is in experiment.json, some folders above"


@dataclass(frozen=True)
class Row:
    """What was measured for one arm in one cell.

    Args:
        chosen: the setting that development data chose; None for an arm that trains nothing.
        trials: what each setting scored on development data, when there were several; None where it has no score.
        misfits: why settings that were tried do not fit the base model.
        runs: metrics of the runs that were tested, one a subset and seed.
        diverged: how many runs diverged instead.
        reason: why nothing was run, where the arm cannot be made on this base model.
    """

    cell: Cell
    arm: Arm
    chosen: Candidate | None = None
    trials: list[tuple[Candidate, float | None]] = field(default_factory=list)
    misfits: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    diverged: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Findings:
    """All rows, the corpora that were left out, with the reasons, and the command."""

    plan: Plan
    rows: list[Row]
    materials: dict[str, Material]
    left_out: dict[str, str]
    command: Sequence[str]


def run(
    name: str, options: Options, output: Path, *, resume: bool, command: Sequence[str], rescore: bool = False
) -> Findings:
    """Run the experiment `name`, or go on with it.

    Args:
        rescore: score the answers that finished runs kept again, by other versions of the metrics or with others that
            are there now. Development scores, by which settings were chosen, stay.

    Raises:
        ConfigError, DataError, ModelError: each in one line. Before any run is begun, `output` is left empty.
    """
    experiment = catalogue.find(name)
    if rescore and not (output / RECORD).is_file():
        raise ConfigError(f"--rescore: --output {output} holds no experiment to score again; leave --rescore out")
    open_output(output, {"experiment": name, **options.record()}, resume=resume, free=SCORED if rescore else ())
    base = results.base_digest(options.model)
    if (output / RECORD).is_file():
        results.check_same_base(json.loads((output / RECORD).read_text(encoding="utf-8")), base, output)
    search.count_trials(experiment, options)
    search.check_sizes(experiment, options)
    if options.bertscore is not None:
        material.check_bertscore(options.bertscore)
    folders = material.folders(experiment, options)
    plan = Plan(name, experiment, options, output, read_base(options.model))
    materials, left_out = _read(folders, plan)
    cells = [(cell, plan.arms(cell)) for cell in plan.cells(materials)]
    check(plan, cells, materials)
    record = {"experiment": name, **options.record()}
    with results.alone(output / RECORD):
        again = rescored(plan, cells, materials) if rescore else {}
        versions = results.versions()
        results.write_json(
            output / RECORD, {"asked": record, "base": base, "command": list(command), "versions": versions}
        )
        for folder, found in again.items():
            results.write_json(folder / results.METRICS, found)
        try:
            rows = _rows(plan, cells, materials)
            if rows and all(row.reason for row in rows):
                told = "; ".join(f"{row.arm.name}: {row.reason}" for row in rows)
                raise ConfigError(f"no row has a run: {told}")
        except (ConfigError, DataError, ModelError):
            begun = [path for name in (results.RUN, results.METRICS) for path in output.rglob(name)]
            if not resume and not begun:  # asked otherwise, it may have the folder
                for made in output.iterdir():
                    made.unlink() if made.is_file() else shutil.rmtree(made)
            raise
    return Findings(plan, rows, materials, left_out, command)


def _rows(plan: Plan, cells: Sequence[tuple[Cell, Sequence[Arm]]], materials: Mapping[str, Material]) -> list[Row]:
    rows = []
    with Screen(sum(_jobs(plan, arm) for _, arms in cells for arm in arms)) as screen:
        for cell, arms in cells:
            worker = Worker(plan, cell, materials.get(cell.corpus or ""), screen)
            rows += [worker.row(arm) for arm in arms]
    return rows


def open_output(output: Path, asked: Mapping[str, Any], *, resume: bool, free: Sequence[str] = ()) -> None:
    """Refuse a folder that holds something else; a `ConfigError` says what to do. Options in `free` may differ."""
    results.check_folder(output)
    if not output.is_dir() or all(path.name.startswith(f".{RECORD}.") for path in output.iterdir()):
        return  # a record that was half written when its run was killed is none
    if not (output / RECORD).is_file():
        raise ConfigError(f"--output {output} is not empty and holds no experiment; choose another folder")
    if not resume:
        raise ConfigError(
            f"--output {output} already holds an experiment; continue it with --resume or choose another folder"
        )
    try:
        before = json.loads((output / RECORD).read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{output / RECORD} cannot be read ({error}); choose another folder") from error
    now = json.loads(json.dumps(dict(asked)))
    for key in sorted({*before, *now} - set(free)):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"--resume: {key} is {now.get(key)!r} but the experiment in {output} has {before.get(key)!r}; resume "
                "with the same options, or choose another folder"
            )


def _read(folders: Mapping[str, Place], plan: Plan) -> tuple[dict[str, Material], dict[str, str]]:
    """Every corpus that is there and that the base model has a head for; another is left out with a word.

    Raises DataError or ModelError where it is the only one.
    """
    found: dict[str, Material] = {}
    left_out: dict[str, str] = {}
    options = plan.options
    for corpus, folder in folders.items():
        recipe = plan.recipe(Cell(corpus, None, plan.base))
        try:
            found[corpus] = material.read(
                corpus, folder, options.limit, options.dev_limit, recipe, options.bertscore,
                whole=bool(plan.experiment.sizes),
            )  # fmt: skip
            check_class(options.model, found[corpus].task)
        except (DataError, ModelError) as error:
            if len(folders) == 1 or options.corpora:
                raise
            found.pop(corpus, None)
            left_out[corpus] = str(error)
            print(f"prefixtune: {corpus} is left out: {error}", file=sys.stderr)
    if folders and not found:
        raise DataError("; ".join(dict.fromkeys(left_out.values())))
    material.check_apart(found)
    return found, left_out


def _jobs(plan: Plan, arm: Arm) -> int:
    """How many runs an arm makes."""
    if isinstance(arm, Counted):
        return 1
    if isinstance(arm, Ensemble):
        return len(plan.draws)
    trials = search.count_trials(plan.experiment, plan.options)
    return len(plan.draws) * len(plan.seeds) + (trials if trials > 1 else 0)


def _as_asked(arm: Trained | Variable, candidate: Candidate) -> Adaptation:
    """What a row trains; a variable prefix is still without the lengths that another run's gates give it."""
    if isinstance(arm, Variable):
        return adaptation(lengths.METHOD, arm.options)
    arm = with_candidate(arm, candidate)
    return adaptation(arm.kind, arm.options)


class Worker:
    """The runs of one cell."""

    def __init__(self, plan: Plan, cell: Cell, data: Material | None, screen: Screen) -> None:
        self.plan, self.cell, self.material, self.screen = plan, cell, data, screen
        self.left_out: dict[str, str] = {}

    def row(self, arm: Arm) -> Row:
        """What is measured for `arm`; a row without runs, and the reason, where it does not fit the base model."""
        before = self.screen.passed
        try:
            return self._row(arm)
        except Unfit as error:
            where = f" ({self.cell.corpus})" if self.cell.corpus else ""
            print(f"prefixtune: {arm.name}{where} is left out: {error}", file=sys.stderr)
            self.left_out[arm.name] = str(error)
            self.screen.done(before + _jobs(self.plan, arm) - self.screen.passed)
            return Row(self.cell, arm, reason=str(error))

    def _row(self, arm: Arm) -> Row:
        """Try, choose on development data, then run every subset and seed with the choice and test it."""
        if isinstance(arm, Counted):
            return Row(self.cell, arm, runs=[self._count(arm)])
        if isinstance(arm, Ensemble):
            return Row(self.cell, arm, runs=[self._together(arm, draw) for draw in self.plan.draws])
        assert isinstance(arm, Trained | Variable)
        tried = search.candidates(arm, self.plan.experiment, self.plan.options)
        trials, misfits = self._trials(arm, tried) if len(tried) > 1 else ([], {})
        chosen = self._best(arm, trials, misfits) if trials else tried[0]
        runs = [
            self._run(arm, chosen, self.plan.run_name(draw, seed), draw, seed, tested=True)
            for draw in self.plan.draws
            for seed in self.plan.seeds
        ]
        finished = [found for found in runs if found is not None]
        return Row(self.cell, arm, chosen, trials, misfits, finished, len(runs) - len(finished))

    def _trials(
        self, arm: Trained | Variable, tried: Sequence[Candidate]
    ) -> tuple[list[tuple[Candidate, float | None]], dict[str, str]]:
        """What each setting scored, and why some do not fit the base model. Raises Unfit where none does."""
        scored: list[tuple[Candidate, float | None]] = []
        misfits: dict[str, str] = {}
        for number, one in enumerate(tried):
            try:
                scored.append((one, self._trial(arm, one, number)))
            except Unfit as error:
                scored.append((one, None))
                misfits[one.told()] = str(error)
                if len(misfits) == len(tried):
                    raise
                print(f"prefixtune: {arm.name}, {one.told()} is left out: {error}", file=sys.stderr)
                self.screen.done()
        return scored, misfits

    def _trial(self, arm: Trained | Variable, candidate: Candidate, number: int) -> float | None:
        """The score on development data, higher is better; None where training diverged. Test data are not read."""
        found = self._run(arm, candidate, f"trial-{number + 1}", 0, self.plan.seeds[0], tested=False)
        if found is None:
            return None
        value = float(found["eval"][found["chosen_by"]])
        return -value if found["chosen_by"] == "loss" else value

    def _best(
        self, arm: Arm, trials: Sequence[tuple[Candidate, float | None]], misfits: Mapping[str, str]
    ) -> Candidate:
        scored = [(candidate, value) for candidate, value in trials if value is not None]
        if not scored:
            fitting = f"{len(trials) - len(misfits)} settings{' that fit' if misfits else ''}"
            raise Unfit(f"training diverged with all {fitting}; give lower --lr")
        return max(scored, key=lambda pair: pair[1])[0]  # the first of equals: the paper's own comes first

    def _run(
        self, arm: Trained | Variable, candidate: Candidate, name: str, draw: int, seed: int, *, tested: bool
    ) -> dict[str, Any] | None:
        plan, cell, folder = self.plan, self.cell, self.plan.folder(self.cell, arm, name)
        assert self.material is not None
        self.screen.begin(" ".join(str(part) for part in (cell.corpus, cell.size, arm.name, name) if part is not None))
        data = self._data(draw, tested=tested)
        diverged = (folder / DIVERGED).is_file()
        done = diverged or results.is_finished(folder)
        what = _as_asked(arm, candidate) if done else self._adaptation(arm, candidate, draw, seed, data.train)
        config = plan.config(
            cell, arm, self.material, candidate, kind=what.kind(), seed=seed, output=folder, trial=not tested
        )
        if done:
            settings, base = {**config.settings(), **what.options()}, results.base_digest(config.model)
            free = (*results.FREE, *(_FROM_GATES if isinstance(arm, Variable) else ()))
            results.check_same_run(folder, settings, data.facts, base, free)
            found = None if diverged else results.read_metrics(folder)
        else:
            begun_before = (folder / results.RUN).is_file()
            try:
                found = fit(config, what, self.material.task, data, resume=True, origin=_ORIGIN, bar=self.screen.bar())
            except (NoRoom, Unsuited) as error:  # beside this row's prefix, or with it
                raise Unfit(str(error)) from error
            except Diverged as error:
                shutil.rmtree(folder / results.CHECKPOINTS, ignore_errors=True)
                results.write_json(folder / DIVERGED, {"reason": str(error)})
                found = None
            if begun_before:  # what a killed run took before is not known
                results.write_json(folder / RESUMED, {"seconds": "of the last start only"})
            gc.collect()  # a model and its hooks know each other, so it is freed here or late
        self.screen.done()
        return {**found, "seconds": None} if found is not None and (folder / RESUMED).is_file() else found

    def _data(self, draw: int, *, tested: bool) -> Data:
        assert self.material is not None
        share = self.plan.experiment.dev_share
        return self.material.data(tested=tested, size=self.cell.size, draw=draw, dev_share=share)

    def _adaptation(
        self, arm: Trained | Variable, candidate: Candidate, draw: int, seed: int, train: Any
    ) -> Adaptation:
        if isinstance(arm, Trained):
            return _as_asked(arm, candidate)
        folder = self._finished(arm.after, draw, seed)
        return derive.variable(self.plan.options.model, folder, train, arm.ratio, arm.options)

    def _finished(self, name: str, draw: int, seed: int) -> Path:
        """The folder of a run of another arm in this cell."""
        other = next(arm for arm in self.plan.arms(self.cell) if arm.name == name)
        folder = self.plan.folder(self.cell, other, self.plan.run_name(draw, seed))
        if name in self.left_out:
            raise Unfit(f"{name}, which this row reads, is left out: {self.left_out[name]}")
        if not results.is_finished(folder):
            raise Unfit(f"{name} diverged with seed {seed}, and this row reads it; give lower --lr")
        return folder

    def _together(self, arm: Ensemble, draw: int) -> dict[str, Any]:
        """The metrics of the runs of all seeds as one predictor."""
        assert self.material is not None
        folder, data = self.plan.folder(self.cell, arm, self.plan.together(draw)), self._data(draw, tested=True)
        self.screen.begin(f"{self.cell.corpus} {arm.name}")
        if not (folder / results.METRICS).is_file():
            members = [self._finished(arm.members, draw, seed) for seed in self.plan.seeds]
            found, answers = derive.ensemble(self.plan.options.model, members, data.tests)
            results.write_answers(folder, answers)
            scores = data.scores(self.material.task, answers)
            results.write_json(folder / results.METRICS, {"tests": scores, **found})
            gc.collect()
        self.screen.done()
        return results.read_metrics(folder)

    def _count(self, arm: Counted) -> dict[str, Any]:
        """How many numbers are trained and stored."""
        folder = self.plan.folder(self.cell, arm, "count")
        self.screen.begin(arm.name)
        asked = {"kind": arm.kind, "options": adaptation(arm.kind, arm.options).options()}
        known = (folder / results.METRICS).is_file() and results.read_metrics(folder).get("counted") == asked
        if not known:
            results.write_json(folder / results.METRICS, {"parameters": self._sizes(arm, folder), "counted": asked})
            gc.collect()
        self.screen.done()
        return results.read_metrics(folder)

    def _sizes(self, arm: Counted, folder: Path) -> dict[str, Any]:
        from prefixtune.tasks.loading import load_base

        model, tokenizer = load_base(self.plan.options.model, None)
        base = sum(parameter.numel() for parameter in model.parameters())
        what = adaptation(arm.kind, arm.options)
        what.attach(model, tokenizer)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        stored = what.save(model, folder, {})
        return {"base": base, "trained": trained, "stored": stored, "stored_percent": 100 * stored / base}
