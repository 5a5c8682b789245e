"""Things found by their file's name: a new file in a package is a new method, task, baseline, corpus or experiment."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Iterable
from types import ModuleType
from typing import TypeVar

from prefixtune.errors import ConfigError, near_miss

Kind = TypeVar("Kind")


def file_names(path: Iterable[str], without: Collection[str] = ()) -> list[str]:
    """The modules of a package (`__path__`) in alphabetical order, but those that only help the others."""
    return sorted(file.name for file in pkgutil.iter_modules(list(path)) if file.name not in without)


def file_called(name: str, package: str, known: Collection[str], what: str) -> ModuleType:
    """The module `name` of a package. Raises ConfigError with the near miss for one that is not among the `known`."""
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}{near_miss(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def only_class(file: ModuleType, kind: type[Kind]) -> type[Kind]:
    """The one class of this kind that a file defines. Raises ConfigError when there are none or several."""
    own = [
        value
        for value in vars(file).values()
        if inspect.isclass(value) and issubclass(value, kind) and value.__module__ == file.__name__
    ]
    if len(own) != 1:
        raise ConfigError(f"{file.__name__} defines {len(own)} of {kind.__name__}; such a file holds exactly one")
    return own[0]
