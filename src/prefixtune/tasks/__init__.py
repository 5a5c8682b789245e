"""Task families: one file each, found by its file name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from prefixtune.errors import ConfigError, near_miss
from prefixtune.tasks.readers import Table, check_columns, read
from prefixtune.tasks.task import Decoding, Task, Window

_NOT_TASKS = {"decoding", "loading", "readers", "readouts", "task"}

__all__ = ["Decoding", "Table", "Task", "Window", "check_columns", "find", "from_metadata", "names", "read"]


def names() -> list[str]:
    """The kinds of task there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_TASKS)


def find(kind: str) -> type[Task]:
    """The task class of a kind; a `ConfigError` with the near miss when there is none."""
    if kind not in names():
        raise ConfigError(f"unknown task {kind!r}{near_miss(kind, names())}")
    module = importlib.import_module(f"{__name__}.{kind}")
    (task,) = (value for value in vars(module).values() if _is_task(value, module.__name__))
    return task


def from_metadata(metadata: dict[str, Any]) -> Task:
    """The task that a prefix folder's metadata describes."""
    return find(metadata["kind"]).from_metadata(metadata)


def _is_task(value: Any, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value.__module__ == module
