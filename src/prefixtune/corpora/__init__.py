"""The data sets of the papers, from their original files or from the hub: one file each, found by its file name."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from prefixtune.corpora.corpus import Corpus, Splits
from prefixtune.errors import ConfigError, near_miss

_NOT_CORPORA = {"columns", "corpus", "news", "superglue"}

__all__ = ["Corpus", "Splits", "find", "names"]


def names() -> list[str]:
    """The names of all corpora."""
    return sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name not in _NOT_CORPORA)


@functools.cache
def find(name: str) -> Corpus:
    """The corpus called `name`; a `ConfigError` with the near miss when there is none."""
    if name not in names():
        raise ConfigError(f"unknown data set {name!r}{near_miss(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    (corpus,) = (value for value in vars(module).values() if _is_corpus(value, module.__name__))
    return corpus()


def _is_corpus(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Corpus) and value.__module__ == module
