"""The data sets of the papers, from their original files or from the hub: one file each, found by its file name."""

from __future__ import annotations

import functools

from prefixtune.corpora.corpus import Corpus, Splits
from prefixtune.finding import file_called, file_names, only_class

_NOT_CORPORA = {"columns", "corpus", "news", "superglue"}

__all__ = ["Corpus", "Splits", "find", "names"]


def names() -> list[str]:
    """The names of all corpora."""
    return file_names(__path__, _NOT_CORPORA)


@functools.cache
def find(name: str) -> Corpus:
    """The corpus called `name`; a `ConfigError` with the near miss when there is none."""
    return only_class(file_called(name, __name__, names(), "data set"), Corpus)()  # type: ignore[type-abstract]
