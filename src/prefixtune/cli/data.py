"""`--data` of `evaluate` and `probe` and `--input` of `generate`.

A file, a hub data set, or a part of a corpus as `reproduce` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefixtune.errors import DataError, near_miss

if TYPE_CHECKING:
    from prefixtune.corpora import Corpus
    from prefixtune.evaluation import Loaded
    from prefixtune.tasks import Table


def read(
    data: str, *, split: str | None, subset: str | None, form: str | None, columns: Mapping[str, str] | None
) -> Table:
    """`FILE`, a hub data set, or `CORPUS=FOLDER`: the rows that a prefix of `reproduce` was trained on the like of."""
    from prefixtune import corpora, tasks

    name, _, folder = data.partition("=")
    meant = folder and (name in corpora.names() or Path(folder).is_dir())
    if not meant or Path(data).exists():
        return tasks.read(data, split=split, subset=subset, form=form, columns=columns)
    corpus = corpora.find(name)
    for option, given in (("--subset", subset), ("--data-format", form), ("--columns", columns)):
        if given is not None:
            raise DataError(f"{option}: the corpus {name} makes its rows itself; leave it out, or give a file")
    return _part(corpus, folder, split or "test")


def _part(corpus: Corpus, folder: str, split: str) -> Table:
    """`train`, `dev`, or a test by its name; `test` is also what a corpus with one test under another name has."""
    splits = corpus.read(folder)
    parts = {"train": splits.train, "dev": splits.dev, **splits.tests}
    if split == "test" and len(splits.tests) == 1:
        split = next(iter(splits.tests))
    if split not in parts:
        raise DataError(f"--split: {corpus.name} has no part {split!r}{near_miss(split, parts)}")
    return parts[split]


def check_columns(table: Table, data: str, loaded: Loaded) -> None:
    """Raise DataError where a prefix was trained on what a corpus makes of its files, and these are the files."""
    task, corpus = loaded.tasks["default"], loaded.metadata["default"].get("corpus")
    if task is None or corpus is None:
        return
    if absent := [column for column in task.required if column not in table.columns()]:
        raise DataError(
            f"{data} has no column {absent[0]!r}; this prefix was trained on the rows that the corpus {corpus} makes "
            f"of its files: --data {corpus}=FOLDER [--split train|dev|test]"
        )
