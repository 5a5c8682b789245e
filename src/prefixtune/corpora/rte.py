"""RTE (Dagan et al. 2006 and after): does a text entail a sentence? GLUE's files, or SuperGLUE's."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Splits, converted
from prefixtune.corpora.superglue import SuperGlue, files
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, read


class Rte(SuperGlue):
    """2,490 / 277 pairs."""

    task: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    layout: ClassVar[str] = f"train.tsv and dev.tsv (GLUE), or {files('RTE')}"
    folder: ClassVar[str] = "RTE"
    subset: ClassVar[str | None] = "rte"

    def original(self, folder: Path) -> Splits | None:
        home = folder / self.folder if (folder / self.folder).is_dir() else folder
        paths = [home / "train.tsv", home / "dev.tsv"]
        if not any(path.is_file() for path in paths):
            return super().original(folder)
        train, dev = (converted(read(str(self.need(path))), self.rows) for path in paths)
        return Splits(train, dev, {"dev": dev})

    def rows(self, row: Row, where: str) -> list[Row]:
        if str(row["label"]) == "contradiction":
            raise DataError(f"{where}: the label 'contradiction' is none of RTE's two; is this CB?")
        sides = ("sentence1", "sentence2") if "sentence1" in row else ("premise", "hypothesis")
        return [{"text": row[sides[0]], "text_pair": row[sides[1]], "label": row["label"]}]
