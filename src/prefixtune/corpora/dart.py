"""DART (Nan et al. 2021): triples from tables and other data sets -> a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted, one_line, pair, text_in
from prefixtune.errors import DataError
from prefixtune.tasks.cells import shown
from prefixtune.tasks.readers import Row, Table, read


class Dart(Corpus):
    """62,659 / 6,980 / 12,552 pairs in version 1.1.1.

    The papers' BLEU comes from multi-bleu.perl on references that DART's script cut into words beforehand; ours is
    sacrebleu's of the texts themselves, and so are the other figures.
    """

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("bleu", "meteor_webnlg", "ter", "bertscore")
    layout: ClassVar[str] = "dart-v1.1.1-full-train.json, dart-v1.1.1-full-dev.json and dart-v1.1.1-full-test.json"
    hub: ClassVar[str] = "Yale-LILY/dart"

    def original(self, folder: Path) -> Splits | None:
        found = {split: sorted(folder.glob(f"dart-*-full-{split}.json")) for split in ("train", "dev", "test")}
        if not any(found.values()):
            return None
        for split, paths in found.items():
            if len(paths) != 1:
                raise DataError(f"dart: {len(paths)} files {folder}/dart-*-full-{split}.json; expected {self.layout}")
        train, dev, test = (_pairs(read(str(path))) for (path,) in found.values())
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        train, dev, test = (_pairs(hub.table(*split)) for split in (("train",), ("validation", "dev"), ("test",)))
        return Splits(train, dev, {"test": test})


def _pairs(table: Table) -> Table:
    def pairs(row: Row, where: str) -> list[Row]:
        triples, given = row["tripleset"], row["annotations"]
        if not _are_triples(triples):
            raise DataError(f"{where}: {shown(triples)} are no triples; expected [subject, relation, object]")
        if isinstance(given, dict):  # the hub has lists by column
            given = [{"text": text} for text in _listed(given["text"])]
        texts = [one_line(text_in(annotation, "text", where)) for annotation in _listed(given)]
        # As Prefix-Tuning's code: the relation in lower case, bars between triples and none before the first.
        source = " | ".join(f"{subject} : {relation.lower()} : {thing}" for subject, relation, thing in triples)
        return [pair(source, text, where) for text in texts]

    return converted(table, pairs, "tripleset and annotations, each with a text")


def _are_triples(value: Any) -> bool:
    def is_triple(item: Any) -> bool:
        return isinstance(item, list) and len(item) == 3 and all(isinstance(part, str) for part in item)

    return isinstance(value, list) and bool(value) and all(is_triple(item) for item in value)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):  # a text would pass for a list of letters
        raise TypeError(f"{shown(value)} is no list")
    return value
