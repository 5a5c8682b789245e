"""CoNLL-2004 (Roth & Yih 2004): persons, places, organisations and others, in BILOU tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from prefixtune.corpora.columns import plain
from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, read


class Conll04(Corpus):
    """922 / 231 / 288 sentences. Tags are read as IOB2, as in P-Tuning v2: nine in place of seventeen."""

    task: ClassVar[str] = "tagging"
    options: ClassVar[dict[str, Any]] = {"tag_scheme": "iob2"}
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall")
    layout: ClassVar[str] = "conll04_train.json, conll04_dev.json and conll04_test.json with tokens and tags"
    hub: ClassVar[str] = "DFKI-SLT/conll04"

    def original(self, folder: Path) -> Splits | None:
        paths = [folder / f"conll04_{split}.json" for split in ("train", "dev", "test")]
        if not any(path.is_file() for path in paths):
            return None
        train, dev, test = (plain(read(str(self.need(path)))) for path in paths)
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        tables = [hub.table(*split) for split in (("train",), ("validation", "dev"), ("test",))]
        train, dev, test = (converted(table, _marked) for table in tables)
        return Splits(train, dev, {"test": test})


def _marked(row: Row, where: str) -> list[Row]:
    """A row of the hub: spans, in words, the end exclusive, as tags."""
    tags = ["O"] * len(row["tokens"])
    for entity in row["entities"]:
        start, end, kind = entity["start"], entity["end"], entity["type"]
        if not 0 <= start < end <= len(tags):
            raise DataError(f"{where}: the entity {entity!r} does not lie within the {len(tags)} tokens")
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return [{"tokens": row["tokens"], "tags": tags}]
