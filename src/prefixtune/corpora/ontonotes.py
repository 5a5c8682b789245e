"""OntoNotes 5.0 (Weischedel et al. 2013): eighteen kinds of entities, in the splits of CoNLL-2012."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.columns import Columns, named, plain
from prefixtune.corpora.corpus import Hub, Splits, converted, joined
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Table, read

_FILES = (
    ("train.conll", "development.conll", "test.conll"),
    ("train.conll", "dev.conll", "test.conll"),
    ("train.txt", "dev.txt", "test.txt"),
    ("onto.train.ner", "onto.development.ner", "onto.test.ner"),
    ("train.sd.conllx", "dev.sd.conllx", "test.sd.conllx"),
)
_SPLITS = {
    "train": {"train"},
    "development": {"development", "dev"},
    "conll-2012-test": {"conll-2012-test"},  # of release 12, which has a larger test set beside the shared task's
    "test": {"test"},
}
_OTHERS = {"arabic", "chinese"}


class OntoNotes(Columns):
    """59,924 / 8,528 / 8,262 sentences in English. The corpus itself is licensed by the LDC (LDC2013T19).

    That is CoNLL-2012's release 4; release 12 of the files has more documents to train and to choose by, and the shared
    task's test part beside a larger one. Counted are the sentences whose names were marked: the New Testament (`pt`),
    17,555 more, is left out, as in Chiu & Nichols 2016.
    """

    files: ClassVar[tuple[tuple[str, str, str], ...]] = _FILES
    layout: ClassVar[str] = (
        f"{named(_FILES)}, or CoNLL-2012's columns; or the *gold_conll files of CoNLL-2012 in folders (one a document) "
        "or under names (one a split) of train, development and test"
    )
    hub: ClassVar[str] = "ontonotes/conll2012_ontonotesv5"
    subset: ClassVar[str | None] = "english_v4"

    def original(self, folder: Path) -> Splits | None:
        found = super().original(folder) or self._shared_task(folder)
        return found and _with_names(found)

    def published(self, hub: Hub) -> Splits:
        return _with_names(super().published(hub))

    def _shared_task(self, folder: Path) -> Splits | None:
        """The splits from files that are called `*gold_conll`: one a document, or one a split."""
        found: dict[str, list[Path]] = {split: [] for split in _SPLITS}
        for path in sorted(folder.rglob("*gold_conll")):
            place = {*path.relative_to(folder).parts[:-1], *path.name.split(".")}
            split = next((split for split, names in _SPLITS.items() if place & names), None)
            if split is not None and not place & _OTHERS:
                found[split].append(path)
        if not any(found.values()):
            return None
        found["test"] = found.pop("conll-2012-test") or found["test"]
        for split, paths in found.items():
            if not paths:
                raise DataError(f"{self.name}: no *gold_conll file of {split} in {folder}; expected {self.layout}")
        train, dev, test = (_documents(f"{folder} ({split})", paths) for split, paths in found.items())
        return Splits(train, dev, {"test": test})


def _documents(name: str, paths: Sequence[Path]) -> Table:
    """The files of a split as one table."""
    tables = [read(str(path), form="conll") for path in paths]
    places: dict[str, str] = {}
    for table in tables:
        if "document" not in table.columns():
            raise DataError(f"{table.name} never says '#begin document'; expected the columns of CoNLL-2012")
        for document in dict.fromkeys(row["document"] for row in table.rows):
            if document in places:  # as where a tree has two releases
                raise DataError(
                    f"{document} is in {places[document]} and in {table.name}; name the folder of one version"
                )
            places[document] = table.name
    return joined(name, tables)


def _with_names(splits: Splits) -> Splits:
    tests = {name: _annotated(table) for name, table in splits.tests.items()}
    return Splits(_annotated(splits.train), _annotated(splits.dev), tests)


def _annotated(table: Table) -> Table:
    """The sentences of documents whose names were marked."""
    left = converted(table, lambda row, where: [] if str(row.get("document")).startswith("pt/") else [row])
    if not left.rows:
        raise DataError(f"{table.name}: nothing but the New Testament (pt), whose names nobody marked")
    return plain(left)
