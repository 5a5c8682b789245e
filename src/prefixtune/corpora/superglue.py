"""What the SuperGLUE corpora share (Wang et al. 2019): their folders, FewGLUE's, and the hub's."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted
from prefixtune.errors import DataError
from prefixtune.tasks.cells import shown
from prefixtune.tasks.readers import Row, Table, read


class SuperGlue(Corpus):
    """One task of SuperGLUE.

    `data` is the folder of all tasks or of this one. With `dev32.jsonl` in it (FewGLUE_32dev), training and development
    are its 32 rows each and the official validation set is the test, `tests["val"]`. Otherwise the validation set is
    the development set, which is what papers report: `tests["dev"]`; the labels of the official test set are hidden.
    With `validation.jsonl` in place of `val.jsonl` it is the hub's data set that was saved as JSONL.
    """

    folder: ClassVar[str]
    """The name of its folder."""
    columns: ClassVar[str | None] = None
    """What a row has, for messages; None where its own columns tell enough."""
    hub: ClassVar[str] = "aps/super_glue"
    passages: ClassVar[tuple[str, ...]] = ("text",)

    def original(self, folder: Path) -> Splits | None:
        home = folder / self.folder if (folder / self.folder).is_dir() else folder
        if not (home / "train.jsonl").is_file() and not (home / "val.jsonl").is_file():
            return None
        if (home / "validation.jsonl").is_file() and not (home / "val.jsonl").is_file():
            train, dev = (self._read(home / f"{split}.jsonl") for split in ("train", "validation"))  # the hub's, saved
            return Splits(train, dev, {"dev": dev})
        train, val = (self._read(home / f"{split}.jsonl") for split in ("train", "val"))
        if (home / "dev32.jsonl").is_file():
            return Splits(train, self._read(home / "dev32.jsonl"), {"val": val})
        return Splits(train, val, {"dev": val})

    def published(self, hub: Hub) -> Splits:
        train, dev = (converted(hub.table(split), self.rows, self.columns) for split in ("train", "validation"))
        return Splits(train, dev, {"dev": dev})

    @abc.abstractmethod
    def rows(self, row: Row, where: str) -> list[Row]:
        """A row of the official file or of the hub as rows of the task."""

    def _read(self, path: Path) -> Table:
        return converted(read(str(self.need(path))), self.rows, self.columns)


def files(folder: str) -> str:
    """The layout of one task, for messages."""
    return f"{folder}/train.jsonl and {folder}/val.jsonl (SuperGLUE), and {folder}/dev32.jsonl (FewGLUE_32dev)"


_TRUTHS = {"true": "true", "false": "false", "1": "true", "0": "false"}


def truth(row: Mapping[str, Any], where: str) -> str:
    """The label, `true` or `false`: JSON has a boolean, the hub a class of that name, and some files 1 and 0.

    Raises DataError for anything else. The official test sets have no label, and the hub has -1 there.
    """
    value = row["label"]
    if value is None:
        raise DataError(f"{where}: no value for the column 'label'; expected true or false")
    name = str(value).lower()
    if name not in _TRUTHS:
        raise DataError(f"{where}: the label is {shown(value)}; expected true or false")
    return _TRUTHS[name]
