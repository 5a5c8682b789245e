"""The data sets of the papers, from their original files or from the hub: one file each, found by its file name."""

from __future__ import annotations

import functools

from prefixtune.corpora.corpus import Corpus, Splits
from prefixtune.finding import file_called, file_names, only_class

_NOT_CORPORA = {"columns", "corpus", "news", "superglue"}

__all__ = ["Corpus", "Splits", "find", "is_part", "names", "part"]


def names() -> list[str]:
    """The names of all corpora."""
    return file_names(__path__, _NOT_CORPORA)


def part(corpus: str, split: str) -> str:
    """What the record of a run calls a part of a corpus, where a training file has its path."""
    return f"{corpus}:{split}"


def is_part(given: object) -> bool:
    """Whether that is what `part` gives, and so no file."""
    return isinstance(given, str) and given.partition(":")[0] in names() and ":" in given


@functools.cache
def find(name: str) -> Corpus:
    """The corpus called `name`; a `ConfigError` with the near miss when there is none."""
    return only_class(file_called(name, __name__, names(), "data set"), Corpus)()  # type: ignore[type-abstract]
