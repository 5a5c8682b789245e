"""What prefixes are compared with, one file each. A new file here is a new baseline: it is found by its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING

from prefixtune.errors import ConfigError, near_miss

if TYPE_CHECKING:
    from prefixtune.training.baseline import Baseline


def names() -> list[str]:
    """Every baseline's name, in alphabetical order."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Baseline]:
    """The dataclass of the baseline `name`. Raises ConfigError with the near miss."""
    from prefixtune.training.baseline import Baseline

    if name not in names():
        raise ConfigError(f"unknown baseline {name!r}{near_miss(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    (own,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Baseline) and value.__module__ == module.__name__
    )
    return own
