"""What stands in one cell of a table: a text, or a label."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from prefixtune.errors import DataError, near_miss
from prefixtune.tasks.readers import Table

_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


def as_text(value: Any, where: str) -> str:
    """One text, or the number that a file has in its place. Raises DataError for a list, a mapping, a null or a NaN."""
    endless = isinstance(value, float) and not math.isfinite(value)  # what pandas writes for a null
    if value is None or endless or isinstance(value, dict | list):
        raise DataError(f"{where}: expected a text, got {shown(value)}")
    return str(value)


def shown(value: Any) -> str:
    """A value of a file as the file has it; the hub's data sets also hold dates."""
    return json.dumps(value, ensure_ascii=False, default=str)[:60]


def label_name(value: Any, where: str) -> str:
    """A label as the string it is stored under, so that 1 in JSON and "1" in CSV are one label."""
    if value is None or isinstance(value, dict | list):
        raise DataError(f"{where}: expected one label, got {shown(value)}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"{where}: the label {value!r} is a number, not a class; classification predicts classes")
    name = str(int(value)) if isinstance(value, float) else str(value).strip()
    if not name:
        raise DataError(f"{where}: the label is empty")
    return name


def ordered_labels(names: set[str]) -> tuple[str, ...]:
    """Labels in numeric order when all are whole numbers, else in alphabetical order."""
    if all(_WHOLE.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def learned_labels(table: Table, kind: str) -> tuple[str, ...]:
    """The classes of the column `label`. Raises DataError for one alone, which the task `kind` cannot learn from."""
    labels = ordered_labels({label_name(row["label"], table.where(i)) for i, row in enumerate(table.rows)})
    if len(labels) < 2:
        raise DataError(f"{table.name} has only the label {labels[0]!r}; {kind} needs at least two")
    return labels


def known_label(value: Any, labels: Sequence[str], where: str) -> str:
    """A label that training has seen. Raises DataError for another."""
    label = label_name(value, where)
    if label not in labels:
        raise DataError(f"{where}: the label {label!r} was not seen in training{near_miss(label, labels)}")
    return label


def label_options(labels: Sequence[str]) -> dict[str, Any]:
    """What a model's configuration says of its head's classes."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
