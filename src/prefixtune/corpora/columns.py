"""Corpora in CoNLL's columns: the word first, its tag last, an empty line between sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted
from prefixtune.errors import DataError
from prefixtune.metrics.entities import check_tags
from prefixtune.tasks.readers import Row, Table, read

_TAGS = ("tags", "ner_tags", "labels")


class Columns(Corpus):
    """A corpus of three such files, under any of the names it goes by."""

    task: ClassVar[str] = "tagging"
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall")
    files: ClassVar[tuple[tuple[str, str, str], ...]]
    """Names of the training, development and test file; the first set of which most are there is the one."""

    def original(self, folder: Path) -> Splits | None:
        names = max(self.files, key=lambda names: sum((folder / name).is_file() for name in names))
        paths = [folder / name for name in names]
        if not any(path.is_file() for path in paths):
            return None
        form = "conllx" if names[0].endswith(".conllx") else "conll"
        train, dev, test = (_entities(read(str(self.need(path)), form=form)) for path in paths)
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        tables = [hub.table(*split) for split in (("train",), ("validation", "dev"), ("test",))]
        train, dev, test = (_entities(converted(table, sentences)) for table in tables)
        return Splits(train, dev, {"test": test})


def named(files: Sequence[Sequence[str]]) -> str:
    """The layout, for messages."""
    return " or ".join(", ".join(names) for names in files) + ": a word and its tag a line"


def sentences(row: Row, where: str) -> list[Row]:
    """The sentences of a row of the hub: one, or the `sentences` of a document."""
    if "sentences" in row:
        document = {"document": row["document_id"]} if "document_id" in row else {}
        return [
            {"tokens": part["words"], "tags": _names(part["named_entities"], where), **document}
            for part in row["sentences"]
        ]
    tags = next((row[name] for name in _TAGS if name in row), None)
    if tags is None or "tokens" not in row:
        raise DataError(f"{where}: expected tokens and {' or '.join(_TAGS)}, got {', '.join(row)}")
    return [{"tokens": row["tokens"], "tags": _names(tags, where)}]


def _names(tags: list[Any], where: str) -> list[str]:
    if tags and not isinstance(tags[0], str):
        raise DataError(f"{where}: the tags are numbers without names ({tags[:5]}); expected one that names them")
    return tags


def _entities(table: Table) -> Table:
    """The table, its tags such as an entity's score can be computed of: told before training and not after it."""
    for index, row in enumerate(table.rows):
        check_tags(row["tags"], table.where(index))
    return table


def plain(table: Table) -> Table:
    """Only the columns of the task."""
    return converted(table, lambda row, where: [{"tokens": row["tokens"], "tags": row["tags"]}])
