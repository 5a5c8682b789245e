"""The methods, one file each. A new file here is a new method: it is found by its name, and nothing else is edited.

One that is defined elsewhere is found as well, by the name of its file, wherever that was imported.
"""

from __future__ import annotations

import inspect

from prefixtune.errors import ConfigError
from prefixtune.finding import file_called, file_names, only_class
from prefixtune.prefix import Method


def names() -> list[str]:
    """Every method's name, in alphabetical order."""
    return file_names(__path__)


def find(name: str) -> type[Method]:
    """The dataclass of the method `name`. Raises ConfigError with the near miss."""
    if name in names() or not (own := _defined_elsewhere(name)):
        return only_class(file_called(name, __name__, names(), "method"), Method)  # type: ignore[type-abstract]
    if len(own) > 1:
        raise ConfigError(f"the method {name!r} is {' and '.join(own)}; give each a name() of its own")
    return next(iter(own.values()))


def check_findable(method: Method) -> None:
    """Raise ConfigError for a method whose saved prefix would be loaded as another's."""
    name, kind = method.name(), type(method)
    if name == "__main__" or find(name) is not kind:
        raise ConfigError(
            f"{kind.__qualname__} would be saved as the method {name!r}, by which it cannot be told from others; give "
            "it a file with a name of its own, or a name()"
        )


def _defined_elsewhere(name: str) -> dict[str, type[Method]]:
    """The methods of this name outside the package; of one that was defined twice, as in a notebook, the last."""
    found: list[type[Method]] = []
    waiting: list[type[Method]] = [Method]  # type: ignore[type-abstract]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found += [kind for kind in below if not inspect.isabstract(kind) and kind.name() == name]
    own = [kind for kind in found if kind.__module__.rpartition(".")[0] != __name__]
    return {f"{kind.__module__}.{kind.__qualname__}": kind for kind in own}
