"""One probe from a loaded prefix to its folder: tables, pictures, the variable prefix and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from prefixtune import evaluation
from prefixtune.bank import bank_of
from prefixtune.checkpoint import read_config, write_whole
from prefixtune.errors import CheckpointError, ConfigError
from prefixtune.evaluation import Loaded
from prefixtune.probe import lengths, page, picture, samples, tables
from prefixtune.probe.lengths import VariablePrefix
from prefixtune.probe.reading import Group, Reading, check, read_gates
from prefixtune.tasks import Table
from prefixtune.tasks.tagging import Tagging
from prefixtune.tasks.task import HeadTask
from prefixtune.training import results

AVERAGE = "every example counts once; within an example, every real token"
_PANELS = 24
"""The most groups in one picture; the tables have all."""
_SAMPLES = 5


@dataclass(frozen=True)
class Record:
    """What the folder of a prefix says about the run that made it; empty where it does not."""

    settings: dict[str, Any] | None
    history: list[dict[str, Any]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Args:
        reading: the gates.
        scores: loss and metrics of the prefix on the same data.
        variable: the variable prefix.
        command: the words of the command that trains it.
    """

    reading: Reading
    scores: dict[str, float]
    variable: VariablePrefix
    command: list[str]


def check_output(output: Path) -> None:
    """Raise ConfigError when `output` is not a new or an empty folder."""
    results.check_new_folder(output)


def first_rows(table: Table, limit: int | None) -> Table:
    """The first `limit` rows; None: all."""
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: expected at least 1")
    return Table(table.name, table.rows[:limit], table.lines[:limit])


def probe(
    loaded: Loaded, name: str, table: Table, *, folder: Path, output: Path, by: str | None = None,
    budget: float = 1.0, batch_size: int = 32, facts: Mapping[str, Any],
) -> Probe:  # fmt: skip
    """Read the gates of the prefix `name` over `table` and fill `output`, which appears whole or not at all.

    Args:
        folder: where the prefix was loaded from.
        by: 'label' or 'example', to keep those apart.
        budget: positions of the variable prefix, as a multiple of those of the prefix.
        facts: what to say of this probe in the files.

    Raises:
        ConfigError: the prefix has no gates, or an option does not fit them.
    """
    lengths.check_ratio(budget)
    check_output(output)
    task, model = loaded.tasks[name], loaded.model
    if task is None:
        raise CheckpointError(
            f"{folder} does not say which task the prefix was trained for, so it cannot be run over data; train it "
            "with `prefixtune train`, or read its gates with prefixtune.gates(model, **inputs)"
        )
    check(bank_of(model).get(name), task, by)
    task.check_libraries()
    record, prepared = read_record(folder), task.prepared(table)
    reading = read_gates(loaded, name, prepared, by=by, batch_size=batch_size)
    scores, answers = evaluation.evaluate(loaded, name, prepared, batch_size=batch_size)
    variable = lengths.variable_prefix(reading.overall, bank_of(model).geometry, budget)
    command = lengths.train_command(
        variable, record.settings, model=str(facts["model"]), task=task.kind, output=f"{folder}-variable"
    )
    found = Probe(reading, scores, variable, command)
    facts = {**facts, "task": task.kind, "average": AVERAGE, "metrics": scores}
    pictures = _pictures(reading, f"The gates of {folder.name}")
    curves = picture.history_png(record.history, loaded.metadata[name].get("metrics", {}).get("chosen_by"))
    shown = _samples(loaded, name, prepared, answers)
    texts = {
        "layers.csv": tables.layers_csv(reading),
        "positions.csv": tables.positions_csv(reading),
        "gates.json": tables.gates_json(reading, facts),
        "lengths.json": tables.lengths_json(variable, command),
        "report.html": _report(found, folder, record, facts, pictures, curves, shown, loaded.metadata[name]),
    }
    output.mkdir(parents=True, exist_ok=True)
    files = {output / file: text.encode() for file, text in texts.items()}
    write_whole(files | {output / file: png for file, png in pictures.items()})
    return found


def read_record(folder: Path) -> Record:
    """The run's settings, its history and its facts. Raises CheckpointError when one is there and unreadable."""
    run, record, history = (folder / name for name in (results.RUN, results.RECORD, results.HISTORY))
    try:
        settings = yaml.safe_load(run.read_text(encoding="utf-8")) if run.is_file() else None
        facts = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
        return Record(settings, [json.loads(line) for line in lines], facts)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder} holds a run that cannot be read ({error}); restore its files") from error


def summary(found: Probe) -> dict[str, str]:
    """A line a layer, to show."""
    rows = {"examples": f"{found.reading.overall.count:,}"}
    for name, site in found.reading.overall.sites.items():
        for row in tables.layers_of(site):
            alpha = "–" if row["alpha"] is None else f"{row['alpha']:.3f}"
            rows[f"{name} {row['layer']}"] = (
                f"gate {row['gate']:.3f} = λ {row['layer_gate']:.3f} × α {alpha}   "
                f"length {row['length']} -> {found.variable.lengths[name][row['layer']]}"
            )
    return rows


def _pictures(reading: Reading, title: str) -> dict[str, bytes]:
    """`gates.png`, and one picture a site for the groups."""
    panels = [_panel(reading.overall, site, site) for site in reading.overall.sites]
    pictures = {"gates.png": picture.gates_png(panels, f"{title}: layer gate × token gate")}
    shown = reading.groups[:_PANELS]
    for site in reading.overall.sites if shown else ():
        one = [_panel(group, site, f"{group.name}{_count(group)}") for group in shown]
        told = f"Gate by {reading.by}, {site}: difference from the mean of all {shown[0].unit}"
        pictures[f"by-{reading.by}-{site}.png"] = picture.groups_png(one, _mean(reading.groups, site), told)
    return pictures


def _mean(groups: Sequence[Group], site: str) -> list[list[float]]:
    """The mean gates over all that the groups hold: words do not include the special tokens that examples do."""
    total = sum(group.count for group in groups)
    return torch.stack([group.sites[site].gate * (group.count / total) for group in groups]).sum(0).tolist()


def _panel(group: Group, site: str, title: str) -> picture.Panel:
    found = group.sites[site]
    return picture.Panel(title, found.layers, found.gate.tolist(), found.layer_gate.tolist())


def _count(group: Group) -> str:
    return f" ({group.count:,} {group.unit})" if group.count > 1 else ""


def _samples(loaded: Loaded, name: str, table: Table, answers: Sequence[Any]) -> str:
    task = loaded.tasks[name]
    if isinstance(task, HeadTask):
        key = page.note("Orange: not the gold tag.") if isinstance(task, Tagging) else ""
        return key + page.judged(samples.judged(task, table, answers, _SAMPLES))
    decoding = evaluation.trained_decoding(loaded.metadata[name])
    return page.texts(samples.texts(loaded, name, table, answers, decoding, _SAMPLES))


def _report(
    found: Probe, folder: Path, record: Record, facts: Mapping[str, Any], pictures: Mapping[str, bytes],
    curves: bytes | None, shown: str, metadata: Mapping[str, Any],
) -> str:  # fmt: skip
    header = {key: value for key, value in read_config(folder).items() if key != "metadata"}
    reading, count = found.reading, found.reading.overall.count
    gates = page.note("Layers and positions count from 0. " + f"Average: {AVERAGE}.")
    gates += page.image(pictures["gates.png"], "heat map of the gates") + _layer_tables(found)
    sections = [
        ("Metrics", _metrics(found.scores, facts, metadata, count)),
        ("Gates", gates),
        (f"Gates by {reading.by}", _groups(reading, pictures)),
        ("Variable prefix", _variable(found)),
        ("Training", page.image(curves, "loss and metric over steps") if curves else ""),
        ("Samples", shown),
        ("Configuration: the run", page.facts(record.settings or {})),
        ("Configuration: the prefix", page.facts(header)),
        ("Configuration: versions", page.facts(record.facts.get("versions", {}))),
        ("Configuration: this probe", page.facts(facts)),
    ]
    data, base = Path(str(facts["data"])).name, Path(str(facts["model"])).name
    subtitle = f"An APT prefix for {facts['task']} on {base}, read over {count:,} examples of {data}."
    return page.page(f"Prefix {folder.name}: what its gates open", subtitle, sections)


def _metrics(scores: Mapping[str, float], facts: Mapping[str, Any], metadata: Mapping[str, Any], count: int) -> str:
    trained = metadata.get("metrics", {})
    rows = {f"{Path(str(facts['data'])).name}, {count:,} examples": scores}
    rows |= {f"{title} (in training)": trained[role] for role, title in _ROLES.items() if role in trained}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return page.table(("data", *columns), [(title, *(row.get(c) for c in columns)) for title, row in rows.items()])


_ROLES = {"eval": "development", "test": "test"}


def _layer_tables(found: Probe) -> str:
    parts = []
    for name, site in found.reading.overall.sites.items():
        variable = found.variable.lengths[name]
        rows = [
            (row["layer"], row["length"], variable[row["layer"]], row["layer_gate"], row["alpha"], row["gate"])
            for row in tables.layers_of(site)
        ]
        columns = ("layer", "length", "variable length", "layer gate λ", "mean token gate α", "gate")
        parts.append(f"<h3>{name}</h3>" + page.table(columns, rows, bar="gate"))
    return "".join(parts)


def _groups(reading: Reading, pictures: Mapping[str, bytes]) -> str:
    if not reading.groups:
        return ""
    parts = [page.image(png, f"gates {file}") for file, png in pictures.items() if file.startswith("by-")]
    if len(reading.groups) > _PANELS:
        parts.append(page.note(f"The first {_PANELS} of {len(reading.groups)}; the tables beside this page have all."))
    for name, site in reading.overall.sites.items():
        columns = [reading.by or "", "mean over", *(f"layer {layer}" for layer in site.layers)]
        rows = [
            (group.name, f"{group.count:,} {group.unit}", *group.sites[name].by_layer().tolist())
            for group in (reading.overall, *reading.groups[:_PANELS])
        ]
        parts.append(f"<h3>{name}: mean gate of each layer</h3>" + page.table(columns, rows))
    return "".join(parts)


def _variable(found: Probe) -> str:
    variable = found.variable
    told = f"{variable.budget:,} positions in all (budget {variable.ratio:g} × {variable.fixed:,}): {lengths.RULE}."
    open_ended = page.note("No file is recorded beside the prefix: put its data for the names in capitals.")
    missing = open_ended if lengths.TRAIN_FILE in found.command else ""
    return page.note(told) + page.code(lengths.shell_line(found.command)) + missing
