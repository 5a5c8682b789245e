"""The papers' experiments as commands: one file each in `experiments/`, found by its name."""

from __future__ import annotations

import importlib
import pkgutil

from prefixtune.errors import ConfigError, near_miss
from prefixtune.reproduce import experiments
from prefixtune.reproduce.experiment import Experiment


def names() -> list[str]:
    """The names of all experiments."""
    return sorted(found.name for found in pkgutil.iter_modules(experiments.__path__))


def find(name: str) -> Experiment:
    """The experiment called `name`. Raises ConfigError with the near miss. Loads neither torch nor data."""
    if name not in names():
        raise ConfigError(f"unknown experiment {name!r}{near_miss(name, names())}")
    return importlib.import_module(f"{experiments.__name__}.{name}").EXPERIMENT
