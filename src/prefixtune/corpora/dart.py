"""DART (Nan et al. 2021): triples from tables and other data sets -> a text."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted, numbered, one_line, read_json
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table


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
        train, dev, test = (_pairs(numbered(str(path), read_json(path))) for (path,) in found.values())
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        train, dev, test = (_pairs(hub.table(*split)) for split in (("train",), ("validation", "dev"), ("test",)))
        return Splits(train, dev, {"test": test})


def _pairs(table: Table) -> Table:
    def pairs(row: Row, where: str) -> list[Row]:
        triples, given = row["tripleset"], row["annotations"]
        texts = given["text"] if isinstance(given, dict) else [annotation["text"] for annotation in given]
        if any(len(triple) != 3 for triple in triples):
            raise DataError(f"{where}: {triples!r} are no triples; expected [subject, relation, object]")
        # As Prefix-Tuning's code: the relation in lower case, bars between triples and none before the first.
        source = " | ".join(f"{subject} : {relation.lower()} : {thing}" for subject, relation, thing in triples)
        return [{"source": source, "target": one_line(text)} for text in texts]

    return converted(table, pairs)
