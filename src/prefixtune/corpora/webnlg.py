"""WebNLG 2017 (Gardent et al. 2017): triples of DBpedia -> a text; half of the test set is of unseen categories."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, numbered, one_line, read_json
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table

_TESTS = ("testdata_with_lex", "rdf-to-text-generation-test-data-with-refs-en")
"""The test set's file in the release of 2017 and in 3.0; those beside it have no texts, or are for text to triples."""


class WebNLG(Corpus):
    """18,102 / 2,268 / 4,928 texts of 6,940 / 872 / 1,862 sets of triples (2017; later releases have more).

    The test set is `seen` (categories that training has), `unseen` (the others) and `all`. Rows also have `category`.
    """

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("bleu_webnlg", "meteor_webnlg", "ter_webnlg")
    layout: ClassVar[str] = (
        f"train/**/*.xml, dev/**/*.xml and test/{_TESTS[0]}.xml ({_TESTS[1]}.xml or *triples/*.xml in later releases), "
        "or train.json, dev.json and test.json in WebNLG's own form"
    )
    hub: ClassVar[str] = "webnlg-challenge/web_nlg"
    subset: ClassVar[str | None] = "webnlg_challenge_2017"

    def original(self, folder: Path) -> Splits | None:
        files = {split: _files(folder, split) for split in ("train", "dev", "test")}
        if not files["train"] and not files["dev"]:
            return None
        for split, paths in files.items():
            if not paths:
                what = "test set" if split == "test" else ".xml file"
                raise DataError(
                    f"webnlg: there is no {split}.json and no {what} in {folder / split}; expected {self.layout}"
                )
        train, dev, test = (_table(folder / split, paths) for split, paths in files.items())
        return _splits(train, dev, test)

    def published(self, hub: Hub) -> Splits:
        tables = [hub.table(*split) for split in (("train",), ("validation", "dev"), ("test",))]
        train, dev, test = (
            numbered(table.name, (one for i, row in _of_one_file(table) for one in _published(row, table.where(i))))
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


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split: its XML, else its JSON."""
    if split == "test":
        whole = [path for name in _TESTS if (path := folder / "test" / f"{name}.xml").is_file()]
        xml = whole[:1] or sorted((folder / "test").glob("*triples/*.xml"))
    else:
        xml = sorted((folder / split).rglob("*.xml"))
    return xml or [path for path in (folder / f"{split}.json", *folder.glob(f"webnlg*_{split}.json")) if _own(path)][:1]


def _own(path: Path) -> bool:
    """Whether that is JSON in WebNLG's own form, as against a data set's of another."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return '"entries"' in file.read(100)


def _table(folder: Path, paths: Sequence[Path]) -> Table:
    name = str(paths[0] if len(paths) == 1 else folder)
    return numbered(name, (row for path in paths for row in _entries(path)))


def _entries(path: Path) -> Iterable[Row]:
    return _entries_of_json(path) if path.suffix == ".json" else _entries_of_xml(path)


def _entries_of_xml(path: Path) -> Iterable[Row]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not valid XML ({error})") from error
    for entry in root.iter("entry"):
        where = f"{path}, entry {entry.get('eid')}"
        triples = [triple.text or "" for triple in entry.iterfind("modifiedtripleset/mtriple")]
        texts = [
            lex.findtext("text") or lex.text or ""  # the enriched releases (1.5) have <text> inside
            for lex in entry.iter("lex")
            if _kept(lex.get("comment"), lex.get("lang"))
        ]
        yield from _rows(triples, texts, entry.get("category") or "", where)


def _entries_of_json(path: Path) -> Iterable[Row]:
    content = read_json(path)
    try:
        for number, entry in (pair for one in content["entries"] for pair in one.items()):
            parts = [[one["subject"], one["property"], one["object"]] for one in entry["modifiedtripleset"]]
            given = entry["lexicalisations"]
            texts = [one["lex"] for one in given if _kept(one.get("comment"), one.get("lang"))]
            triples = [" | ".join(part) for part in parts]
            yield from _rows(triples, texts, entry["category"], f"{path}, entry {number}")
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected WebNLG's form, entries with category, modifiedtripleset and lexicalisations; got {error}"
        ) from error


def _kept(comment: str | None, lang: str | None) -> bool:
    """Whether a text is a good one and English; what says neither is."""
    return comment in ("good", "", None) and lang in ("en", "", None)


def _of_one_file(table: Table) -> Iterable[tuple[int, Row]]:
    """Numbered rows. The hub has all test files of a release in one split: of them, those of the test set proper."""
    rows = list(enumerate(table.rows))
    return [(i, row) for i, row in rows if row.get("test_category") in _TESTS] or rows


def _published(row: Row, where: str) -> Iterable[Row]:
    """A row of the hub: lists by column, one item a text."""
    try:
        triples = row["modified_triple_sets"]["mtriple_set"][0]
        lex = row["lex"]
        langs = lex.get("lang") or [None] * len(lex["text"])
        texts = zip(lex["text"], lex["comment"], langs, strict=True)
        good = [text for text, comment, lang in texts if _kept(comment, lang)]
        return list(_rows(triples, good, row["category"], where))
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{where}: expected modified_triple_sets, lex and category, got {', '.join(row)}") from error


def _rows(triples: Sequence[str], texts: Iterable[str], category: str, where: str) -> Iterable[Row]:
    parts = [triple.split(" | ") for triple in triples]
    if not parts or any(len(part) != 3 for part in parts):
        raise DataError(f"{where}: {list(triples)!r} are no triples; expected subject | property | object")
    source = linearised(parts)
    for text in texts:
        if not (target := one_line(text)):
            raise DataError(f"{where}: an empty text; expected a sentence in every lex, or none of it")
        yield {"source": source, "target": target, "category": category}
