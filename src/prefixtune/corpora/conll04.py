"""CoNLL-2004 (Roth & Yih 2004): persons, places, organisations and others, in BILOU tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, read
from prefixtune.tasks.tagging import span_tags


class Conll04(Corpus):
    """922 / 231 / 288 sentences. Tags are read as IOB2, as in P-Tuning v2: nine in place of seventeen."""

    task: ClassVar[str] = "tagging"
    options: ClassVar[dict[str, Any]] = {"tag_scheme": "iob2"}
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall")
    layout: ClassVar[str] = (
        "conll04_train.json, conll04_dev.json and conll04_test.json with tokens and tags, or with tokens and entities "
        "(SpERT's)"
    )
    hub: ClassVar[str] = "DFKI-SLT/conll04"

    def original(self, folder: Path) -> Splits | None:
        paths = [folder / f"conll04_{split}.json" for split in ("train", "dev", "test")]
        if not any(path.is_file() for path in paths):
            if (theirs := folder / "conll04.corp").is_file():
                raise DataError(f"{theirs} is Roth & Yih's own form, which is not read; expected {self.layout}")
            return None
        train, dev, test = (converted(read(str(self.need(path))), _tagged) for path in paths)
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        tables = [hub.table(*split) for split in (("train",), ("validation", "dev"), ("test",))]
        train, dev, test = (converted(table, _marked) for table in tables)
        return Splits(train, dev, {"test": test})


def _tagged(row: Row, where: str) -> list[Row]:
    """A row of the files: P-Tuning v2's have tags, SpERT's have spans."""
    if "tags" in row:
        return [{"tokens": row["tokens"], "tags": row["tags"]}]
    if "entities" not in row:
        raise DataError(f"{where}: neither tags nor entities; it has {', '.join(row)}")
    return _marked(row, where)


def _marked(row: Row, where: str) -> list[Row]:
    """Spans, in words, the end exclusive, as tags."""
    tokens = row["tokens"]
    if not isinstance(tokens, list):
        raise DataError(f"{where}: expected a list of tokens, got {tokens!r}")
    return [{"tokens": tokens, "tags": span_tags(row["entities"], len(tokens), where)}]
