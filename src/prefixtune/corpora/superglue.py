"""What the SuperGLUE corpora share (Wang et al. 2019): their folders, FewGLUE's, and the hub's."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted
from prefixtune.tasks.readers import Row, Table, read


class SuperGlue(Corpus):
    """One task of SuperGLUE.

    `data` is the folder of all tasks or of this one. With `dev32.jsonl` in it (FewGLUE_32dev), training and development
    are its 32 rows each and the official validation set is the test, `tests["val"]`. Otherwise the validation set is
    the development set, which is what papers report: `tests["dev"]`; the labels of the official test set are hidden.
    """

    folder: ClassVar[str]
    """The name of its folder."""
    hub: ClassVar[str] = "aps/super_glue"

    def original(self, folder: Path) -> Splits | None:
        home = folder / self.folder if (folder / self.folder).is_dir() else folder
        if not (home / "train.jsonl").is_file() and not (home / "val.jsonl").is_file():
            return None
        train, val = (self._read(home / f"{split}.jsonl") for split in ("train", "val"))
        if (home / "dev32.jsonl").is_file():
            return Splits(train, self._read(home / "dev32.jsonl"), {"val": val})
        return Splits(train, val, {"dev": val})

    def published(self, hub: Hub) -> Splits:
        train, dev = (converted(hub.table(split), self.rows) for split in ("train", "validation"))
        return Splits(train, dev, {"dev": dev})

    @abc.abstractmethod
    def rows(self, row: Row, where: str) -> list[Row]:
        """A row of the official file or of the hub as rows of the task."""

    def _read(self, path: Path) -> Table:
        return converted(read(str(self.need(path))), self.rows)


def files(folder: str) -> str:
    """The layout of one task, for messages."""
    return f"{folder}/train.jsonl and {folder}/val.jsonl (SuperGLUE), and {folder}/dev32.jsonl (FewGLUE_32dev)"


def truth(value: object) -> str:
    """`true` or `false`, as JSON has it (a boolean) and as the hub has it (a class of that name)."""
    return str(value).lower()
