"""SciTLDR (Cachola et al. 2020): the abstract of a paper -> one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted, pair
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table, read


class SciTLDR(Corpus):
    """1,992 / 619 / 618 papers, in development and test with several sentences each: the authors' and reviewers'."""

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2_scitldr", "rougeL_scitldr")
    layout: ClassVar[str] = "train.jsonl, dev.jsonl and test.jsonl with lists of sentences in source and target"
    hub: ClassVar[str] = "allenai/scitldr"
    subset: ClassVar[str | None] = "Abstract"

    def original(self, folder: Path) -> Splits | None:
        paths = [folder / f"{split}.jsonl" for split in ("train", "dev", "test")]
        if not any(path.is_file() for path in paths):
            return None
        train, dev, test = (_pairs(read(str(self.need(path)))) for path in paths)
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        train, dev, test = (_pairs(hub.table(*split)) for split in (("train",), ("validation",), ("test",)))
        return Splits(train, dev, {"test": test})


def _pairs(table: Table) -> Table:
    def pairs(row: Row, where: str) -> list[Row]:
        if not _are_sentences(row["source"]) or not _are_sentences(row["target"]):
            raise DataError(f"{where}: expected lists of sentences in source and target")
        source = " ".join(" ".join(row["source"]).split())
        return [pair(source, text.strip(), where) for text in row["target"]]

    return converted(table, pairs)


def _are_sentences(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
