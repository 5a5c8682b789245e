"""WebNLG 2017 (Gardent et al. 2017): triples of DBpedia -> a text; half of the test set is of unseen categories."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, numbered, one_line
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table

_TEST = "testdata_with_lex.xml"


class WebNLG(Corpus):
    """18,102 / 2,268 / 4,928 texts of 6,940 / 872 / 1,862 sets of triples.

    The test set is `seen` (categories that training has), `unseen` (the others) and `all`. Rows also have `category`.
    """

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("bleu_webnlg", "meteor_webnlg", "ter_webnlg")
    layout: ClassVar[str] = f"train/**/*.xml, dev/**/*.xml and test/{_TEST}"
    hub: ClassVar[str] = "webnlg-challenge/web_nlg"
    subset: ClassVar[str | None] = "webnlg_challenge_2017"

    def original(self, folder: Path) -> Splits | None:
        train, dev = (sorted((folder / split).rglob("*.xml")) for split in ("train", "dev"))
        if not train and not dev:
            return None
        for split, paths in (("train", train), ("dev", dev)):
            if not paths:
                raise DataError(f"webnlg: there is no .xml file in {folder / split}; expected {self.layout}")
        test = self.need(folder / "test" / _TEST)
        return _splits(
            numbered(str(folder / "train"), (row for path in train for row in _entries(path))),
            numbered(str(folder / "dev"), (row for path in dev for row in _entries(path))),
            numbered(str(test), _entries(test)),
        )

    def published(self, hub: Hub) -> Splits:
        tables = [hub.table(*split) for split in (("train",), ("validation", "dev"), ("test",))]
        train, dev, test = (
            numbered(table.name, (row for i, row in enumerate(table.rows) for row in _published(row, table.where(i))))
            for table in tables
        )
        return _splits(train, dev, test)


def linearised(triples: Iterable[Sequence[str]]) -> str:
    """Triples as Prefix-Tuning's code writes them: `| subject : property : object | subject : ...`."""
    return "".join(f"| {' : '.join(part.strip() for part in triple)} " for triple in triples).strip()


def _splits(train: Table, dev: Table, test: Table) -> Splits:
    known = {row["category"] for row in train.rows}
    parts = {
        name: [row for row in test.rows if (row["category"] in known) is seen]
        for name, seen in (("seen", True), ("unseen", False))
    }
    tests = {name: numbered(f"{test.name} ({name})", rows) for name, rows in parts.items() if rows}
    return Splits(train, dev, {**tests, "all": test})


def _entries(path: Path) -> Iterable[Row]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not valid XML ({error})") from error
    for entry in root.iter("entry"):
        where = f"{path}, entry {entry.get('eid')}"
        triples = [triple.text or "" for triple in entry.iterfind("modifiedtripleset/mtriple")]
        texts = [one_line(lex.text or "") for lex in entry.iter("lex") if lex.get("comment") in ("good", None, "")]
        yield from _rows(triples, texts, entry.get("category") or "", where)


def _published(row: Row, where: str) -> Iterable[Row]:
    """A row of the hub: lists by column, one item a text."""
    try:
        triples = row["modified_triple_sets"]["mtriple_set"][0]
        texts = zip(row["lex"]["text"], row["lex"]["comment"], strict=True)
        good = [one_line(text) for text, comment in texts if comment in ("good", "", None)]
        return list(_rows(triples, good, row["category"], where))
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{where}: expected modified_triple_sets, lex and category, got {', '.join(row)}") from error


def _rows(triples: Sequence[str], texts: Iterable[str], category: str, where: str) -> Iterable[Row]:
    parts = [triple.split(" | ") for triple in triples]
    if not parts or any(len(part) != 3 for part in parts):
        raise DataError(f"{where}: {list(triples)!r} are no triples; expected subject | property | object")
    source = linearised(parts)
    for text in texts:
        yield {"source": source, "target": text, "category": category}
