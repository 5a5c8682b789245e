"""One probe from a loaded prefix to its folder: tables, pictures, the variable prefix and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixtune import evaluation
from prefixtune.bank import bank_of
from prefixtune.checkpoint import write_whole
from prefixtune.errors import CheckpointError, ConfigError
from prefixtune.evaluation import Loaded
from prefixtune.probe import lengths, report, tables
from prefixtune.probe.lengths import VariablePrefix
from prefixtune.probe.reading import Reading, check, read_gates
from prefixtune.tasks import Table
from prefixtune.training import curves, results


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
        facts: what to say of this probe in the files, `prefix`, `data` and `model` among it.

    Raises:
        ConfigError: the prefix has no gates, or an option does not fit them.
    """
    lengths.check_ratio(budget)
    curves.check_library()
    results.check_new_folder(output)
    task, model = loaded.tasks[name], loaded.model
    if task is None:
        raise CheckpointError(
            f"{folder} does not say which task the prefix was trained for, so it cannot be run over data; train it "
            "with `prefixtune train`, or read its gates with prefixtune.gates(model, **inputs)"
        )
    check(bank_of(model).get(name), task, by)
    task.check_libraries()
    prefix, record, prepared = report.named(str(facts["prefix"])), report.read_record(folder), task.prepared(table)
    reading = read_gates(loaded, name, prepared, by=by, batch_size=batch_size)
    scores, answers = evaluation.evaluate(loaded, name, prepared, batch_size=batch_size)
    variable = lengths.variable_prefix(reading.overall, bank_of(model).geometry, budget)
    command = lengths.train_command(
        variable, record.settings, model=str(facts["model"]), task=task.kind, output=f"{prefix}-variable"
    )
    found = Probe(reading, scores, variable, command)
    facts = {**facts, "task": task.kind, "average": report.AVERAGE, "metrics": scores}
    pictures = report.pictures(reading, prefix.name)
    how = evaluation.trained_decoding(loaded.metadata[name])
    sections = [
        ("Gates", report.gates(reading, pictures, variable)),
        (f"Gates by {reading.by}", report.groups(reading, pictures)),
        ("Variable prefix", report.variable_prefix(variable, command)),
    ]
    scored = report.Scored(loaded, name, folder, prepared, scores, answers, how, facts)
    title = f"Prefix {prefix.name}: what its gates open"
    texts = {
        "layers.csv": tables.layers_csv(reading),
        "positions.csv": tables.positions_csv(reading),
        "gates.json": tables.gates_json(reading, facts),
        "lengths.json": tables.lengths_json(variable, command),
        "report.html": report.document(scored, record, title, "An APT prefix", "probe", sections),
    }
    output.mkdir(parents=True, exist_ok=True)
    files = {output / file: text.encode() for file, text in texts.items()}
    write_whole(files | {output / file: png for file, png in pictures.items()})
    return found


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
