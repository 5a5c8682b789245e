"""What every corpus gives: its splits, in the columns of its task, and how the papers score it."""

from __future__ import annotations

import abc
import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefixtune import metrics
from prefixtune.errors import DataError
from prefixtune.tasks.cells import shown
from prefixtune.tasks.readers import Row, Table, read
from prefixtune.tasks.tagging import completed
from prefixtune.tasks.text2text import grouped

_LOADABLE = ("*.parquet", "*.arrow", "README.md")
"""What a folder holds that the datasets library knows how to load."""


@dataclass(frozen=True)
class Splits:
    """The tables of a corpus, their rows in the columns of its task.

    Args:
        tests: what is reported, by name. SuperGLUE hides the labels of its test sets, and papers report the
            development set: there, `{"dev": dev}`.
    """

    train: Table
    dev: Table
    tests: dict[str, Table]


class Corpus(abc.ABC):
    """One data set. Final subclasses stand one a file and are found by its name."""

    task: ClassVar[str]
    """The kind of its task, a name of `prefixtune.tasks`."""
    options: ClassVar[dict[str, Any]] = {}
    """What `learn` of the task is given beside the rows."""
    metrics: ClassVar[tuple[str, ...]]
    """What the papers score it by, names of `prefixtune.metrics`; the first is what results are compared by."""
    layout: ClassVar[str]
    """The original files, as a message names them."""
    hub: ClassVar[str]
    """The data set on the hub whose columns are known, for messages: `owner/name`."""
    subset: ClassVar[str | None] = None
    """Its configuration there."""
    passages: ClassVar[tuple[str, ...]] = ()
    """The columns of texts that several rows can be about: what is held out of training shares none with it."""

    @property
    def name(self) -> str:
        """The name it is found by."""
        return type(self).__module__.rpartition(".")[2]

    def read(self, data: str) -> Splits:
        """All splits.

        Args:
            data: the folder of the original files, or a hub data set: its id, or a folder the datasets library loads.

        Raises:
            DataError: a file that is missing, with the layout that was expected, or a row that is malformed.
        """
        folder = Path(data)
        if folder.is_dir() and (found := self.original(folder)) is not None:
            return found
        if folder.is_dir() and not any(next(folder.rglob(pattern), None) for pattern in _LOADABLE):
            raise DataError(
                f"{data} holds no files of {self.name}; expected {self.layout}, or the hub data set {self._hub_name()}"
            )
        if (folder / "state.json").is_file():  # it would be read as each of the splits
            raise DataError(f"{data} is one table of save_to_disk; expected a DatasetDict's folder, a table a split")
        if folder.is_file():
            raise DataError(f"{data} is one file; expected the folder of {self.name}: {self.layout}")
        return self.published(Hub(data, self.subset))

    def score(
        self, answers: Sequence[Any], table: Table, names: Sequence[str] | None = None
    ) -> tuple[dict[str, float], dict[str, str]]:
        """The metrics of what its task answers to the prepared `table`, and why others are left out.

        `names` are the metrics; None: the corpus's own. Answers are those of `Task.predict`: one a row, or (text to
        text) one a source, in order of appearance.
        """
        references = _references(self.task, table)
        if self.task == "tagging":
            answers = completed(answers, references)
        return metrics.measure(self.metrics if names is None else names, answers, references)

    @abc.abstractmethod
    def original(self, folder: Path) -> Splits | None:
        """The splits from the original files; None when `folder` has none of them."""

    @abc.abstractmethod
    def published(self, hub: Hub) -> Splits:
        """The splits of the hub data set."""

    def need(self, path: Path) -> Path:
        """`path` when it is a file; else a `DataError` with the layout."""
        if not path.is_file():
            raise DataError(f"{self.name}: there is no file {path}; expected {self.layout}")
        return path

    def _hub_name(self) -> str:
        return self.hub + (f" ({self.subset})" if self.subset else "")


@dataclass(frozen=True)
class Hub:
    """A hub data set: its id, or a folder that the datasets library loads."""

    data: str
    subset: str | None

    def table(self, *splits: str) -> Table:
        """The first of `splits` that there is, classes by their names. Raises DataError when there is none."""
        *others, last = splits
        subset = self._subset()
        for split in others:
            with contextlib.suppress(DataError):
                return read(self.data, split=split, subset=subset)
        return read(self.data, split=last, subset=subset)

    def _subset(self) -> str | None:
        """The configuration to load; None where a data set has only one."""
        import datasets

        try:
            there = list(datasets.get_dataset_config_names(self.data))
        except (OSError, ValueError, RuntimeError) as error:  # datasets raises its own subclasses of these
            reason = " ".join(str(error).split())
            told = "is not a local folder and could not be fetched from the hub"
            if Path(self.data).exists():
                told = "is no folder that the datasets library can read"
            raise DataError(f"{self.data!r} {told}: {reason}") from error
        return self.subset if self.subset in there or len(there) > 1 else None


def _references(task: str, table: Table) -> list[Any]:
    """What metrics compare the answers with."""
    if task == "text2text":
        return list(grouped(table).values())
    if task == "tagging":
        return [row["tags"] for row in table.rows]
    if table.rows and "question_id" in table.rows[0]:
        return [(row["question_id"], row["label"]) for row in table.rows]
    return [row["label"] for row in table.rows]


def converted(table: Table, change: Any, expected: str | None = None) -> Table:
    """The table with `change(row, where)`, a list of rows, in the place of each row.

    Raises DataError for a row that cannot be changed: a missing column is named, and of a row of another form it is
    said what was `expected` (None: the columns that it has).
    """
    rows: list[Row] = []
    lines: list[int] = []
    for index, row in enumerate(table.rows):
        try:
            found = change(row, table.where(index))
        except KeyError as error:
            raise DataError(
                f"{table.where(index)}: no column {error.args[0]!r}; it has {', '.join(map(str, row))}"
            ) from error
        except DataError:  # a ValueError, which tells already what is wrong
            raise
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            wanted = f"it has {', '.join(map(str, row))}" if expected is None else f"expected {expected}"
            reason = " ".join(str(error).split())
            raise DataError(f"{table.where(index)}: malformed ({reason}); {wanted}") from error
        rows += found
        lines += [table.lines[index]] * len(found)
    return Table(table.name, rows, lines)


def numbered(name: str, rows: Iterable[Row]) -> Table:
    """Rows of one file, counted from 1."""
    rows = list(rows)
    if not rows:
        raise DataError(f"{name} is empty: expected at least one row")
    return Table(name, rows, list(range(1, len(rows) + 1)))


def joined(name: str, tables: Sequence[Table]) -> Table:
    """Several files as one table. Rows are counted through, since a line number names no file of many."""
    return numbered(name, [row for table in tables for row in table.rows])


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError at the line that is malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error


def text_in(row: Mapping[str, Any], name: str, where: str) -> str:
    """The text in the column `name`. Raises DataError for anything else, which would end up in a text as it is."""
    if not isinstance(row[name], str):
        raise DataError(f"{where}: {name} is {shown(row[name])}; expected a text")
    return str(row[name])


def whole_in(row: Mapping[str, Any], name: str, where: str) -> int:
    """The whole number in the column `name`, or the text of one."""
    value = row[name]
    text = "" if isinstance(value, bool) else str(value).strip()
    if not re.fullmatch(r"[+-]?[0-9]+", text.removesuffix(".0") if isinstance(value, float) else text):
        raise DataError(f"{where}: {name} is {shown(value)}; expected a whole number")
    return int(value)


def pair(source: str, target: str, where: str) -> Row:
    """A row of text to text. Raises DataError when either is empty: there is nothing to read, or nothing to learn."""
    for name, text in (("source", source), ("target", target)):
        if not text.strip():
            raise DataError(f"{where}: the {name} is empty; expected a text, or no such row")
    return {"source": source, "target": target}


def one_line(text: str) -> str:
    """A text without line breaks and doubled spaces."""
    return re.sub(r"\s+", " ", text).strip()
