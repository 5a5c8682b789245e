"""The methods, one file each. A new file here is a new method: it is found by its name, and nothing else is edited."""

from __future__ import annotations

from prefixtune.finding import file_called, file_names, only_class
from prefixtune.prefix import Method


def names() -> list[str]:
    """Every method's name, in alphabetical order."""
    return file_names(__path__)


def find(name: str) -> type[Method]:
    """The dataclass of the method `name`. Raises ConfigError with the near miss."""
    return only_class(file_called(name, __name__, names(), "method"), Method)  # type: ignore[type-abstract]
