"""Task families: one file each, found by its file name."""

from __future__ import annotations

from typing import Any

from prefixtune.finding import file_called, file_names, only_class
from prefixtune.tasks.readers import Table, check_columns, read
from prefixtune.tasks.task import Decoding, Task, Window

_NOT_TASKS = {"cells", "decoding", "loading", "readers", "readouts", "task"}

__all__ = ["Decoding", "Table", "Task", "Window", "check_columns", "find", "from_metadata", "names", "read"]


def names() -> list[str]:
    """The kinds of task there are."""
    return file_names(__path__, _NOT_TASKS)


def find(kind: str) -> type[Task]:
    """The task class of a kind; a `ConfigError` with the near miss when there is none."""
    return only_class(file_called(kind, __name__, names(), "task"), Task)  # type: ignore[type-abstract]


def from_metadata(metadata: dict[str, Any]) -> Task:
    """The task that a prefix folder's metadata describes."""
    return find(metadata["kind"]).from_metadata(metadata)
