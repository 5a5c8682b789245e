"""Readers: a data file, or a data set on the hub, becomes a `Table` of rows whose columns a task knows.

Formats: JSONL, CSV, TSV, JSON (one list of objects), CoNLL columns (word first, tag last; in .conllx the word's number
first; CoNLL-2012's, which begin a document, by their own layout), or a hub data set: its id, a folder that the datasets
library loads, or one of `Dataset.save_to_disk`.
Every complaint names the file, the line and the remedy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefixtune.errors import DataError, near_miss

Row = dict[str, Any]
Numbered = list[tuple[int, Row]]

_WORD = re.compile(r"[^ \t\r\n]+")
EXTENSIONS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".conll": "conll", ".txt": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".conll03": "conll",
    ".conllx": "conllx",
}  # fmt: skip
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""JSON's way to write one half of a character beyond the first 65,536; whole ones have both halves."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BEGIN = "#begin document"
"""What CoNLL-2012's files, and no other columns, have before each document."""
_BRACKETS = re.compile(r"(?=\(.+\)|.*\*)(?:\((?P<kind>[^\W\d][^()*|]*))?\*?(?P<end>\)?)")
"""Its names, which never overlap: `(DATE*` begins one, `*` goes on, `*)` ends it, and `(GPE)` is one of one word."""
_SAVED = ("state.json", "dataset_info.json")
_SPLITS = "dataset_dict.json"
"""What `Dataset.save_to_disk` leaves in its folder beside the rows."""


@dataclass(frozen=True)
class Table:
    """Rows of one file or data set.

    Args:
        name: what the user gave, for messages.
        rows: one mapping a row.
        lines: the line (files) or row (hub) number of every row, counted from 1.
    """

    name: str
    rows: list[Row]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """The place of row `index` as a message names it: `train.jsonl, line 7`."""
        return f"{self.name}, line {self.lines[index]}"

    def renamed(self, columns: Mapping[str, str]) -> Table:
        """The same table with column `columns[new]` called `new`."""
        available = self.columns()
        for new, old in columns.items():
            if old not in available:
                raise DataError(f"{self.name} has no column {old!r} to use as {new!r}{near_miss(old, available)}")
        renames = {old: [new for new, one in columns.items() if one == old] for old in columns.values()}
        hidden = set(columns) - set(columns.values())  # a column that a renamed one replaces
        rows = [
            {new: value for old, value in row.items() if old not in hidden for new in renames.get(old, [old])}
            for row in self.rows
        ]
        return Table(self.name, rows, self.lines)

    def columns(self) -> list[str]:
        """Names of the columns of all rows, in order of appearance."""
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def require(self, columns: Iterable[str]) -> None:
        """Every row has every one of `columns`, or a `DataError` that names the first one missing."""
        available = self.columns()
        for column in columns:
            if column not in available:
                raise DataError(
                    f"{self.name} has no column {column!r}{near_miss(column, available)}; "
                    f"name the right one with --columns {column}=NAME"
                )
            for index, row in enumerate(self.rows):
                if row.get(column) is None:
                    raise DataError(f"{self.where(index)}: no value for the column {column!r}")


def read(
    given: str, *, split: str | None = None, subset: str | None = None, form: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Table:  # fmt: skip
    """Read a file, or a data set of the hub when no such file exists.

    Args:
        given: a path or a hub data set id.
        split: the hub data set's split.
        subset: the hub data set's configuration.
        form: the file's format when its extension does not say.
        columns: `{new name: name in the file}`.

    Raises:
        DataError: nothing there, unknown extension, empty, or malformed at a line that is named.
    """
    path = Path(given)
    if path.is_file():
        table = _read_file(path, form)
    elif path.is_dir():
        table = _read_hub(given, split, subset)
    elif path.suffix.lower() in EXTENSIONS or not _HUB_ID.fullmatch(given):
        raise DataError(f"there is no file {given!r}; expected a {_known()} file or a hub data set id")
    else:
        table = _read_hub(given, split, subset)
    if not table.rows:
        raise DataError(f"{given} is empty: expected at least one row")
    return table.renamed(columns) if columns else table


def check_columns(columns: Mapping[str, str], known: Iterable[str]) -> Mapping[str, str]:
    """`columns` when every new name in it is a column of the task (`known`); else a `DataError` with the near miss."""
    for new in columns:
        if new not in known:
            raise DataError(f"--columns: this task has no column {new!r}{near_miss(new, known)}")
    return columns


def _known() -> str:
    return "/".join(dict.fromkeys(EXTENSIONS))


def _read_file(path: Path, form: str | None) -> Table:
    if form is not None and form not in _READERS:
        raise DataError(f"--data-format {form!r} is unknown{near_miss(form, _READERS)}")
    form = form or EXTENSIONS.get(path.suffix.lower())
    if form not in _READERS:
        raise DataError(
            f"{path} has the unknown extension {path.suffix!r}; expected {_known()}, or name the format with "
            f"--data-format {'|'.join(_READERS)}"
        )
    text = _as_written(path) if form in _CSV else read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty: expected at least one row")
    numbered = _READERS[form](text, path)
    if _ESCAPED_HALF.search(text):
        _refuse_half_characters(numbered, path)
    return Table(str(path), [row for _, row in numbered], [number for number, _ in numbered])


def read_text(path: Path) -> str:
    """The text of a file, every kind of line end as a line feed. Raises DataError when it is not UTF-8."""
    return _as_written(path).replace("\r\n", "\n").replace("\r", "\n")


def _as_written(path: Path) -> str:
    """The text of a file with its own line ends."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error


def _refuse_half_characters(numbered: Numbered, path: Path) -> None:
    for number, row in numbered:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}, line {number}: half a character ({error.object[error.start]!a}), as in a text that was cut; "
                "remove it"
            ) from error


def parsed(text: str, told: str) -> Any:
    """The value of a JSON text. Raises DataError, `told` and the reason."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{told} ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise DataError(f"{told} (nested too deeply to be read)") from error
    except ValueError as error:  # Python bounds the digits of a number
        raise DataError(f"{told} ({error})") from error


def _read_jsonl(text: str, path: Path) -> Numbered:
    numbered: Numbered = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = parsed(line, f"{path}, line {number}: not valid JSON")
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected one JSON object a line, got a {type(row).__name__}")
        numbered.append((number, row))
    return numbered


def _read_json(text: str, path: Path) -> Numbered:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError):
        rows = parsed(text, f"{path}: not valid JSON")
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects, got one {type(rows).__name__} (one a line: .jsonl)")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {number}: expected an object, got a {type(row).__name__}")
    return list(enumerate(rows, start=1))


def _read_csv(text: str, path: Path) -> Numbered:
    return _delimited(text, path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(text: str, path: Path) -> Numbered:
    # GLUE's and most other TSV files carry bare quotation marks, so a quote is a character like any other.
    return _delimited(text, path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(text: str, path: Path, *, delimiter: str, quoting: Literal[0, 3]) -> Numbered:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # an article may be longer than Python's own 128 KB
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    numbered: Numbered = []
    header: list[str] | None = None
    before = 0
    try:
        for fields in reader:
            first, before = before + 1, reader.line_num
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
                if twice := [name for name in header if header.count(name) > 1]:
                    raise DataError(f"{path}, line {first}: two columns are called {twice[0]!r}; rename one")
            elif len(fields) != len(header):
                raise DataError(
                    f"{path}, line {first}: {len(fields)} fields where the header has {len(header)} "
                    f"({', '.join(header)})"
                )
            else:
                numbered.append((first, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}, line {before + 1}: malformed ({error})") from error
    return numbered


def _read_conll(text: str, path: Path, word: int = 0) -> Numbered:
    """Words stand in the column `word`, tags in the last."""
    if text.startswith(_BEGIN) or f"\n{_BEGIN}" in text:
        return _read_conll2012(text, path)
    numbered: Numbered = []
    tokens: list[str] = []
    tags: list[str] = []
    first = 0
    lines = [(line, _fields(line)) for line in [*text.split("\n"), ""]]
    usual = {(len(fields), "\t" in line) for line, fields in lines if any(fields) and not line.startswith("# ")}
    for number, (line, fields) in enumerate(lines, start=1):
        if line.startswith("# ") and ((len(fields), "\t" in line) not in usual or fields[2:3] == ["="]):
            continue  # a comment: `# id 1`, `# text = ...`
        if not any(fields) or fields[0] == "-DOCSTART-":
            if tokens:
                numbered.append((first, {"tokens": tokens, "tags": tags}))
            tokens, tags = [], []
        elif len(fields) < word + 2 or not fields[word] or not fields[-1]:
            told = line.strip(" ")
            raise DataError(f"{path}, line {number}: {told!r} has no tag; expected a word, then its tag last")
        else:
            first = number if not tokens else first
            tokens.append(fields[word])
            tags.append(fields[-1])
    return numbered


def _read_conll2012(text: str, path: Path) -> Numbered:
    """The word is the fourth column, its name the eleventh; the verbs' arguments follow, coreference is the last."""
    numbered: Numbered = []
    words: list[tuple[int, str, str]] = []
    document = ""
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        fields = _fields(line)
        if any(fields) and not line.startswith(("#begin ", "#end ")):
            if len(fields) < 12 or not fields[3]:
                raise DataError(
                    f"{path}, line {number}: {len(fields)} columns; expected 12 or more, as in CoNLL-2012: the word is "
                    "the 4th, its name the 11th"
                )
            words.append((number, fields[3], fields[10]))
            continue
        if words:
            tags = _iob2([(number, name) for number, _, name in words], path)
            row = {"tokens": [word for _, word, _ in words], "tags": tags, "document": document}
            numbered.append((words[0][0], row))
            words = []
        if line.startswith(_BEGIN):  # `#begin document (nw/wsj/23/wsj_2311); part 000`
            document = line.removeprefix(_BEGIN).strip(" (").replace(")", "")
    return numbered


def _iob2(names: list[tuple[int, str]], path: Path) -> list[str]:
    """The tags of a sentence's names in brackets, each with the number of its line."""
    tags: list[str] = []
    kind: str | None = None
    begun = 0
    for number, name in names:
        found = _BRACKETS.fullmatch(name)
        if found is None or (found["kind"] and kind) or (found["end"] and not (found["kind"] or kind)):
            place = f"within {kind}" if kind else "outside of any"
            raise DataError(
                f"{path}, line {number}: the name {name!r} (11th column) {place}; expected CoNLL-2012's brackets, one "
                "name at a time: (DATE*, then * and *), or (GPE)"
            )
        kind, begun = (found["kind"], number) if found["kind"] else (kind, begun)
        tags.append(f"{'B' if found['kind'] else 'I'}-{kind}" if kind else "O")
        kind = None if found["end"] else kind
    if kind is not None:
        raise DataError(f"{path}, line {begun}: the name '({kind}*' is never closed in its sentence; was the file cut?")
    return tags


def words_of(text: str) -> list[str]:
    """The words of a line or a cell: spaces and tabs end them; a no-break space (`5 000`) is a part of one."""
    return _WORD.findall(text)


def _fields(line: str) -> list[str]:
    return [field.strip(" ") for field in line.split("\t")] if "\t" in line else words_of(line)


_CSV = ("csv", "tsv")
"""Formats whose reader knows line ends itself: within quotes they are data."""
_READERS: dict[str, Callable[[str, Path], Numbered]] = {
    "jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv, "tsv": _read_tsv, "conll": _read_conll,
    "conllx": partial(_read_conll, word=1),  # the number of the word stands first
}  # fmt: skip


def _read_hub(given: str, split: str | None, subset: str | None) -> Table:
    import datasets

    try:
        if all((Path(given) / name).is_file() for name in _SAVED):  # one table, whatever its split is called
            data = datasets.load_from_disk(given)
        elif (Path(given) / _SPLITS).is_file():  # beside its files there may be what `map` kept
            data = datasets.load_from_disk(given)
            if split is not None and split not in data:
                raise ValueError(f"Unknown split {split!r}. Should be one of {list(data)}.")
            data = data if split is None else data[split]
        else:
            data = datasets.load_dataset(given, name=subset, split=split, cache_dir=_cache_of(Path(given)))
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{given!r} is not a local file, and loading it as a hub data set failed: {reason}") from error
    if isinstance(data, dict):
        if len(data) > 1:
            told = f"the data set {given!r} has the splits {', '.join(data)}"
            raise DataError(f"{told}; choose one (--split; for train, --train-split and its like)")
        (data,) = data.values()
    rows = [{name: _named(value, data.features[name]) for name, value in row.items()} for row in data]
    return Table(given, rows, list(range(1, len(rows) + 1)))


def _cache_of(folder: Path) -> str | None:
    """Where the datasets library keeps what it read of `folder`; None, its own place, for what is no folder.

    Where a card names the files, it knows a folder by its last name alone: another one of that name, or the same one
    with other rows, would be answered with what was read before.
    """
    import datasets

    if not folder.is_dir():
        return None
    files = [(str(path), stat.st_size, stat.st_mtime_ns) for path in sorted(folder.rglob("*")) if (stat := path.stat())]
    digest = hashlib.sha256(json.dumps([str(folder.resolve()), files]).encode()).hexdigest()
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"folder-{digest[:16]}")


def _named(value: Any, feature: Any) -> Any:
    """A value of a hub data set with the numbers of classes as their names, also within lists and structures."""
    if isinstance(feature, dict) and isinstance(value, dict):
        return {name: _named(item, feature[name]) for name, item in value.items()}
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        return [_named(item, inner) for item in value]
    names = getattr(feature, "names", None)
    if names is None or not isinstance(value, int):
        return value
    return names[value] if value >= 0 else None  # -1 is how hub data sets hide a test label
