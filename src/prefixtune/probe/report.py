"""The report of a run in one HTML file: scores, gates where there are any, curves, samples and configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from prefixtune.bank import bank_of
from prefixtune.checkpoint import read_config
from prefixtune.errors import CheckpointError
from prefixtune.evaluation import Loaded
from prefixtune.probe import lengths, page, picture, samples, tables
from prefixtune.probe.lengths import VariablePrefix
from prefixtune.probe.reading import Group, Reading, has_gates, read_gates
from prefixtune.tasks import Decoding, Table, Task
from prefixtune.tasks.tagging import Tagging
from prefixtune.tasks.task import HeadTask
from prefixtune.training import curves, results

AVERAGE = "every example counts once; within an example, every real token"
_PANELS = 24
"""The most groups in one picture; the tables have all."""
_SAMPLES = 5
_ROLES = {"eval": "development", "test": "test"}


@dataclass(frozen=True)
class Record:
    """What the folder of a prefix says about the run that made it; empty where it does not."""

    settings: dict[str, Any] | None
    history: list[dict[str, Any]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """A prefix and what it made of data.

    Args:
        folder: where the prefix was loaded from.
        table: the data, prepared by the task or not.
        scores: loss and metrics.
        answers: one a row; for text to text one a source.
        decoding: how texts were generated.
        facts: what to say of this command, `prefix`, `data` and `model` among it.
    """

    loaded: Loaded
    name: str
    folder: Path
    table: Table
    scores: Mapping[str, float]
    answers: Sequence[Any]
    decoding: Decoding
    facts: Mapping[str, Any]

    def task(self) -> Task:
        """The task of the prefix, which has scored it."""
        task = self.loaded.tasks[self.name]
        assert task is not None
        return task


def of_run(scored: Scored, *, batch_size: int) -> str:
    """The report of any prefix; one with gates has them, over the same data."""
    loaded, name = scored.loaded, scored.name
    prefix, task = bank_of(loaded.model).get(name), scored.task()
    prepared = task.prepared(scored.table)
    told = {"task": task.kind, "metrics": scored.scores}
    told |= {} if isinstance(task, HeadTask) else {"decoding": vars(scored.decoding)}
    scored = replace(scored, table=prepared, facts={**scored.facts, **told})
    sections = []
    if has_gates(prefix):
        reading = read_gates(loaded, name, prepared, batch_size=batch_size)
        sections.append(("Gates", gates(reading, pictures(reading, named(str(scored.facts["prefix"])).name), None)))
    title, method = f"Prefix {named(str(scored.facts['prefix'])).name}", prefix.method.name()
    return document(scored, read_record(scored.folder), title, f"A prefix ({method})", "evaluation", sections)


def document(
    scored: Scored, record: Record, title: str, what: str, command: str, sections: Sequence[tuple[str, str]]
) -> str:
    """The whole page. `what` begins its subtitle; `sections` follow the metrics."""
    metadata = scored.loaded.metadata[scored.name]
    header = {key: value for key, value in read_config(scored.folder).items() if key != "metadata"}
    summed = (record.settings or {}).get("loss") == "sentence_sum"
    drawn = curves.history_png(record.history, _trained(metadata).get("chosen_by"), sentence_sum=summed)
    parts = [
        ("Metrics", _metrics(scored, metadata)),
        *sections,
        ("Training", page.image(drawn, "loss and metric over steps") if drawn else ""),
        ("Samples", _samples(scored)),
        ("Configuration: the run", page.facts(record.settings or {})),
        ("Configuration: the prefix", page.facts(header)),
        ("Configuration: versions", page.facts(record.facts.get("versions", {}))),
        (f"Configuration: this {command}", page.facts(scored.facts)),
    ]
    data, base = (named(str(scored.facts[key])).name for key in ("data", "model"))
    subtitle = f"{what} for {scored.task().kind} on {base}, read over {len(scored.table):,} examples of {data}."
    return page.page(title, subtitle, parts)


def _trained(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metrics that training wrote; none where somebody else wrote something else by that name."""
    found = metadata.get("metrics")
    return found if isinstance(found, Mapping) else {}


def named(given: str) -> Path:
    """A folder by a path that ends in its name, which `.` and `..` do not; of a hub id its last part."""
    path = Path(given)
    if path.name in ("", ".."):
        return path.resolve()
    return path if path.exists() else Path(path.name)


def read_record(folder: Path) -> Record:
    """The run's settings, its history and its facts. Raises CheckpointError when one is there and unreadable."""
    run, record = folder / results.RUN, folder / results.RECORD
    try:
        settings = yaml.safe_load(run.read_text(encoding="utf-8")) if run.is_file() else None
        facts = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        history = results.read_history(folder)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder} holds a run that cannot be read ({error}); restore its files") from error
    read = [(results.RUN, settings or {}), (results.RECORD, facts), *((results.HISTORY, one) for one in history)]
    for file, found in read:
        if not isinstance(found, dict):
            raise CheckpointError(f"{folder / file} is no mapping of names and values; restore it")
    if any("step" not in one for one in history):
        raise CheckpointError(f"{folder / results.HISTORY} has a line without its step; restore it")
    return Record(settings, history, facts)


def pictures(reading: Reading, name: str) -> dict[str, bytes]:
    """`gates.png`, and one picture a site for the groups."""
    with picture.missing_glyphs_told():
        return _drawn(reading, f"The gates of {name}: layer gate × token gate")


def _drawn(reading: Reading, title: str) -> dict[str, bytes]:
    panels = [_panel(reading.overall, site, site) for site in reading.overall.sites]
    pictures = {"gates.png": picture.gates_png(panels, title)}
    shown = reading.groups[:_PANELS]
    for site in reading.overall.sites if shown else ():
        one = [_panel(group, site, group.name, _count(group)) for group in shown]
        told = f"Gate by {reading.by}, {site}: difference from the mean of all {shown[0].unit}"
        pictures[f"by-{reading.by}-{site}.png"] = picture.groups_png(one, _mean(reading.groups, site), told)
    return pictures


def _mean(groups: Sequence[Group], site: str) -> list[list[float]]:
    """The mean gates over all that the groups hold: words do not include the special tokens that examples do."""
    total = sum(group.count for group in groups)
    return torch.stack([group.sites[site].gate * (group.count / total) for group in groups]).sum(0).tolist()


def _panel(group: Group, site: str, title: str, count: str = "") -> picture.Panel:
    found = group.sites[site]
    return picture.Panel(title, found.layers, found.gate.tolist(), found.layer_gate.tolist(), count)


def _count(group: Group) -> str:
    return f" ({group.count:,} {group.unit})" if group.count > 1 else ""


def gates(reading: Reading, pictures: Mapping[str, bytes], variable: VariablePrefix | None) -> str:
    """The gates as a picture, and a table a site; beside the lengths of a variable prefix where there is one."""
    told = page.note("Layers and positions count from 0. " + f"Average: {AVERAGE}.")
    parts = [told, page.image(pictures["gates.png"], "heat map of the gates")]
    sites = reading.overall.sites
    largest = max(abs(gate) for site in sites.values() for gate in site.by_layer().tolist())
    for name, site in sites.items():
        rows = [_layer(row, None if variable is None else variable.lengths[name]) for row in tables.layers_of(site)]
        columns, values = list(rows[0]), [list(row.values()) for row in rows]
        parts.append(f"<h3>{name}</h3>" + page.table(columns, values, bar="gate", whole=largest))
    return "".join(parts)


def _layer(row: Mapping[str, Any], variable: Sequence[int] | None) -> dict[str, Any]:
    """A row of the table, by its columns."""
    shown = {"layer": row["layer"], "length": row["length"]}
    shown |= {} if variable is None else {"variable length": variable[row["layer"]]}
    return shown | {"layer gate λ": row["layer_gate"], "mean token gate α": row["alpha"], "gate": row["gate"]}


def groups(reading: Reading, pictures: Mapping[str, bytes]) -> str:
    """The gates of each label or example; nothing where none were kept apart."""
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


def variable_prefix(variable: VariablePrefix, command: Sequence[str]) -> str:
    """Its rule, and the command that trains it."""
    told = f"{variable.budget:,} positions in all (budget {variable.ratio:g} × {variable.fixed:,}): {lengths.RULE}."
    open_ended = page.note("No file is recorded beside the prefix: put its data for the names in capitals.")
    missing = open_ended if lengths.TRAIN_FILE in command else ""
    return page.note(told) + page.code(lengths.shell_line(command)) + missing


def _metrics(scored: Scored, metadata: Mapping[str, Any]) -> str:
    trained = {role: found for role, found in _trained(metadata).items() if isinstance(found, Mapping)}
    rows = {f"{Path(str(scored.facts['data'])).name}, {len(scored.table):,} examples": scored.scores}
    rows |= {f"{title} (in training)": trained[role] for role, title in _ROLES.items() if role in trained}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return page.table(("data", *columns), [(title, *(row.get(c) for c in columns)) for title, row in rows.items()])


def _samples(scored: Scored) -> str:
    task = scored.task()
    if isinstance(task, HeadTask):
        key = page.note("Orange: not the gold tag.") if isinstance(task, Tagging) else ""
        return key + page.judged(samples.judged(task, scored.table, scored.answers, _SAMPLES))
    shown = samples.texts(scored.loaded, scored.name, scored.table, scored.answers, scored.decoding, _SAMPLES)
    return page.texts(shown)
