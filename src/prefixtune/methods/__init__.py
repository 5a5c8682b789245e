"""The methods, one file each. A new file here is a new method: it is found by its name, and nothing else is edited."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from prefixtune.errors import ConfigError, near_miss
from prefixtune.prefix import Method


def names() -> list[str]:
    """Every method's name, in alphabetical order."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Method]:
    """The dataclass of the method `name`. Raises ConfigError with the near miss."""
    if name not in names():
        raise ConfigError(f"unknown method {name!r}{near_miss(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise ConfigError(f"{module.__name__} defines {len(own)} methods; a method file holds exactly one")
    return own[0]
