"""What prefixes are compared with, one file each. A new file here is a new baseline: it is found by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixtune.finding import file_called, file_names, only_class

if TYPE_CHECKING:
    from prefixtune.training.baseline import Baseline


def names() -> list[str]:
    """Every baseline's name, in alphabetical order."""
    return file_names(__path__)


def find(name: str) -> type[Baseline]:
    """The dataclass of the baseline `name`. Raises ConfigError with the near miss."""
    from prefixtune.training.baseline import Baseline

    return only_class(file_called(name, __name__, names(), "baseline"), Baseline)  # type: ignore[type-abstract]
