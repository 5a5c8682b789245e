"""XSum's files and the topics of its articles, which the BBC's addresses tell."""

from __future__ import annotations

import re
import sys
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted, numbered, read_json
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table, read_text

SPLITS = "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
FOLDER = "bbc-summary-data"
LAYOUT = (
    f"{SPLITS} beside {FOLDER}/*.summary (the original), or train.source, train.target, val.* and test.* with one text "
    "a line"
)
_PART = re.compile(r"\[SN\](URL|TITLE|FIRST-SENTENCE|RESTBODY)\[SN\]")
_ADDRESS = re.compile(r"bbc\.(?:co\.uk|com)(?:/\d+/hi)?/(?:(sport)\b|news/(?:(?:\d+/hi/)?([a-z_]+(?:-[a-z]+)*)|\d+\b))")
NO_SECTION = "news"
"""The topic of news whose address names no section (`bbc.co.uk/news/10622048`)."""
_FURNITURE = frozenset({
    "Share this with", "Email", "Facebook", "Messenger", "Twitter", "Pinterest", "WhatsApp", "Linkedin", "LinkedIn",
    "Copy this link", "These are external links and will open in a new window",
})  # fmt: skip
"""Lines of the BBC's pages that are no part of an article: those, and no others, that the hub's version is without."""


def from_files(folder: Path, need: Callable[[Path], Path]) -> Splits | None:
    """The splits of a folder; None when it has neither form of files. Rows have `url` where the files tell it."""
    if (folder / SPLITS).is_file() or (folder / FOLDER).is_dir():
        ids = _ids(need(folder / SPLITS))
        train, dev, test = (
            _written(f"{folder} ({split})", [_article(need(folder / FOLDER / f"{i}.summary")) for i in ids[split]])
            for split in ("train", "validation", "test")
        )
        return Splits(train, dev, {"test": test})
    if not any((folder / f"{split}.source").is_file() for split in ("train", "val", "test")):
        return None
    train, dev, test = (_lines(folder, split, need) for split in ("train", "val", "test"))
    return Splits(train, dev, {"test": test})


def from_hub(hub: Hub) -> Splits:
    """The splits of a hub data set with the columns document and summary (and, for topics, url)."""
    tables = [converted(hub.table(*split), _published) for split in (("train",), ("validation",), ("test",))]
    train, dev, test = (_written(table.name, table.rows) for table in tables)
    return Splits(train, dev, {"test": test})


def _written(name: str, rows: list[Row]) -> Table:
    """The articles that have a text and a summary. XSum has a few of a title and a picture only; they are told."""
    found = [row for row in rows if row["source"].strip() and row["target"].strip()]
    if len(found) < len(rows):
        left = f"{len(rows) - len(found)} of {len(rows)} articles are left out: empty"
        print(f"prefixtune: {name}: {left}", file=sys.stderr)
    return numbered(name, found)


def topic(url: str) -> str | None:
    """`sport`, or the section of the news (`world`, `uk`, `business`, `health` ..., or `news` where the address names
    none); None for an address of neither."""
    found = _ADDRESS.search(url)
    if found is None:
        return None
    return "sport" if found[1] else re.split(r"[-_]", found[2] or NO_SECTION)[0]


class TopicSplit(Corpus):
    """XSum with some topics for training and development, and others for the test (Prefix-Tuning, section 6.4)."""

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    layout: ClassVar[str] = LAYOUT
    hub: ClassVar[str] = "an XSum with a column url"

    @abstractmethod
    def trains_on(self, section: str) -> bool:
        """Whether articles of this topic are for training and development."""

    @abstractmethod
    def tests_on(self, section: str) -> bool:
        """Whether articles of this topic are for the test."""

    def original(self, folder: Path) -> Splits | None:
        found = from_files(folder, self.need)
        return None if found is None else by_topic(self.name, found, self.trains_on, self.tests_on)

    def published(self, hub: Hub) -> Splits:
        return by_topic(self.name, from_hub(hub), self.trains_on, self.tests_on)


def by_topic(name: str, splits: Splits, trained: Callable[[str], bool], tested: Callable[[str], bool]) -> Splits:
    """Training and development articles of some topics, test articles of others.

    Articles of none of them, and not of sport, are counted on standard error. Raises DataError without addresses.
    """
    tables = (splits.train, splits.dev, splits.tests["test"])
    parts = [_with_topics(table) for table in tables]
    strays = [
        row["url"]
        for part in parts
        for row, section in part
        if section is None or not (section == "sport" or trained(section) or tested(section))
    ]
    if strays:
        print(
            f"prefixtune: {name}: {len(strays)} of {sum(map(len, tables))} articles are left out: their addresses tell "
            f"no topic that it trains or tests on, as {strays[0]}",
            file=sys.stderr,
        )
    train, dev, test = (
        numbered(f"{table.name} by topic", [row for row, section in part if section is not None and wanted(section)])
        for table, part, wanted in zip(tables, parts, (trained, trained, tested), strict=True)
    )
    return Splits(train, dev, {"test": test})


def _with_topics(table: Table) -> list[tuple[Row, str | None]]:
    for index, row in enumerate(table.rows):
        if row.get("url") is None:
            raise DataError(
                f"{table.where(index)}: no address, so no topic; the splits by topic need the original files "
                f"({FOLDER}/*.summary), or a column url"
            )
    return [(row, topic(row["url"])) for row in table.rows]


def _ids(path: Path) -> dict[str, list[str]]:
    """The numbers of the articles of each split. Raises DataError when the file has not a list for each."""
    found = read_json(path)
    for split in ("train", "validation", "test"):
        if not isinstance(found, dict) or not isinstance(found.get(split), list):
            raise DataError(f"{path}: no list of articles in {split}; expected an object of train, validation and test")
    return found


def _article(path: Path) -> Row:
    lines = [line for line in read_text(path).split("\n") if line not in _FURNITURE]
    parts = _PART.split("\n".join(lines))
    found = {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if not {"FIRST-SENTENCE", "RESTBODY"} <= found.keys():
        raise DataError(f"{path}: expected the parts [SN]FIRST-SENTENCE[SN] and [SN]RESTBODY[SN]")
    return {"source": found["RESTBODY"], "target": found["FIRST-SENTENCE"], "url": found.get("URL")}


def _lines(folder: Path, split: str, need: Callable[[Path], Path]) -> Table:
    texts = [read_text(need(folder / f"{split}.{side}")) for side in ("source", "target")]
    sides = [text.removesuffix("\n").split("\n") for text in texts]
    if len(sides[0]) != len(sides[1]):
        raise DataError(f"{folder}: {split}.source has {len(sides[0])} lines but {split}.target {len(sides[1])}")
    return _written(f"{folder} ({split})", [{"source": s, "target": t} for s, t in zip(*sides, strict=True)])


def _published(row: Row, where: str) -> list[Row]:
    found = {"source": " ".join(row["document"].split()), "target": row["summary"].strip()}
    return [{**found, "url": row["url"]} if "url" in row else found]
