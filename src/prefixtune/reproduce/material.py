"""What an experiment trains on: corpora found in the data folders, cut to a limit, and subsets of few examples."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from prefixtune import corpora, metrics, tasks
from prefixtune.errors import ConfigError, DataError, near_miss
from prefixtune.reproduce.experiment import Experiment
from prefixtune.reproduce.options import Options
from prefixtune.tasks import Table, Task
from prefixtune.tasks.choice import Choice
from prefixtune.tasks.classification import Classification
from prefixtune.tasks.loading import named_failure, quiet
from prefixtune.tasks.spans import Spans
from prefixtune.tasks.tagging import STRICT, Tagging
from prefixtune.training.bench import Data
from prefixtune.training.config import RunConfig

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Material:
    """One corpus, read and prepared.

    Args:
        task: as its training data define it, all of them.
        metrics: names, the main one first.
        settings: fields of a run's configuration that are the corpus's.
        tests: test tables by name.
        held_out: whether `dev` is a tenth of the training data, because the development set is the test.
    """

    corpus: str
    task: Task
    metrics: tuple[str, ...]
    settings: dict[str, Any]
    train: Table
    dev: Table
    tests: dict[str, Table]
    held_out: bool = False

    def data(self, *, tested: bool, size: int | None, draw: int, dev_share: float) -> Data:
        """The tables of one run; a trial (`tested=False`) never sees the test data.

        Raises DataError when there are fewer training examples than `size`; of development data, all are taken then.
        """
        train, dev = self.train, self.dev
        if size is not None:
            seed = f"{self.corpus} {size} {draw}"
            train = subset(train, size, f"train {seed}")
            dev = subset(dev, min(max(round(size * dev_share), 1), examples(dev)), f"dev {seed}")
        tests = self.tests if tested else {}
        tables = {"train": train, "eval": dev, **{f"test {name}": table for name, table in tests.items()}}
        facts = {role: _facts(table) for role, table in tables.items()}
        return Data(train=train, eval=dev, test=None, tests=tests, facts=facts, more=self.score)

    def score(self, answers: Sequence[Any], table: Table) -> dict[str, float]:
        """The corpus's own metrics, those that can be computed here."""
        return corpora.find(self.corpus).score(answers, table, self.metrics)[0]

    def constant(self, table: Table) -> float | None:
        """What the best answer that is always the same scores in the main metric; None where answers are no classes."""
        if isinstance(self.task, Classification | Spans):
            answers: Sequence[Any] = self.task.labels
        elif isinstance(self.task, Choice):
            answers = range(self.task.count)
        else:
            return None
        return max(self.score([answer] * len(table), table)[self.metrics[0]] for answer in answers)


@dataclass(frozen=True)
class Place:
    """Where a corpus is to be read from: a folder of its `own` (or a hub id), or one that may hold others instead.

    Of `data` and the folders `beside` it, which are as good, the first that holds the corpus is the one.
    """

    data: str
    own: bool
    beside: tuple[str, ...] = ()


def folders(experiment: Experiment, options: Options) -> dict[str, Place]:
    """Where each corpus of the experiment is to be read from.

    Raises ConfigError for a corpus that the experiment does not have, and for a folder that is not there.
    """
    named = dict(options.data) if isinstance(options.data, Mapping) else {}
    known = (*experiment.corpora, *experiment.more)
    wanted = list(options.corpora or (*experiment.corpora, *(name for name in experiment.more if name in named)))
    plain = [] if isinstance(options.data, Mapping) else list(options.data or ())
    for name in (*wanted, *named):
        if name not in known:
            raise ConfigError(f"this experiment has no corpus {name!r}{near_miss(name, known)}")
    for folder in (*named.values(), *plain):
        if not Path(folder).exists() and (folder in plain or not _HUB_ID.fullmatch(folder)):
            raise ConfigError(f"--data: there is no folder {folder!r}")
    if wanted and not options.data:
        raise ConfigError(f"no data given; name the folder of {' or '.join(wanted)} with --data")
    found = {}
    for name in wanted:
        inside = [str(Path(folder) / name) for folder in plain if (Path(folder) / name).exists()]
        if own := named.get(name) or next(iter(inside), None):
            found[name] = Place(own, own=True)
        elif plain:
            found[name] = Place(plain[0], own=len(wanted) == 1, beside=tuple(plain[1:]))
        elif options.corpora:
            raise ConfigError(f"no data given for {name}; name its folder with --data {name}=FOLDER")
    return found


def read(
    corpus: str, place: Place, limit: int | None, dev_limit: int | None = None,
    recipe: Mapping[str, Any] | None = None, bertscore: str | None = None, whole: bool = False,
) -> Material:  # fmt: skip
    """One corpus of `prefixtune.corpora`, with at most `limit` examples or inputs of each part.

    `whole` leaves the training data, from which few examples are to be drawn, as they are; `dev_limit` is the limit of
    the development data alone; what `recipe` says of the task (its separator, the length of its targets, its tags) goes
    before what the corpus says; `bertscore` is the model of that metric. Raises DataError when the corpus is not there.
    """
    found = corpora.find(corpus)
    splits = _splits(found, place)
    own = {field.name for field in fields(RunConfig)}
    settings = {name: value for name, value in found.options.items() if name in own}
    task = tasks.find(found.task).learn(splits.train, **{**found.options, **(recipe or {})})
    train, dev, *tests = (task.prepared(table) for table in (splits.train, splits.dev, *splits.tests.values()))
    held_out = "dev" in splits.tests  # SuperGLUE: what is reported must not choose
    if held_out:
        dev, train = _held_out(train, found.passages, f"{corpus} held out")
    if limit is not None and not whole:
        train = subset(train, min(limit, examples(train)), f"{corpus} train")
    if limit is not None:
        tests = [first_inputs(table, limit, f"{corpus} test") for table in tests]
    if (most := dev_limit or limit) is not None:
        dev = first_inputs(dev, most, f"{corpus} dev")
    names = _metrics(found.metrics, task)
    if bertscore is not None and found.task == "text2text":
        names = (*(name for name in names if name != "bertscore"), f"bertscore:{bertscore}")
    return Material(
        corpus,
        task,
        names,
        settings,
        train,
        dev,
        dict(zip(splits.tests, tests, strict=True)),
        held_out,
    )


def _metrics(names: tuple[str, ...], task: Task) -> tuple[str, ...]:
    """The corpus's metrics. Entities are read by the marks of their tags, which as IOB would lose U, L, E and S."""
    if not isinstance(task, Tagging) or task.scheme not in STRICT:
        return names
    return tuple(f"{name}:{task.scheme}" if name.startswith("entity_") else name for name in names)


def check_bertscore(given: str) -> None:
    """Raise ConfigError or ModelError, before anything is trained, where `--bertscore` names no model or no layer."""
    if metrics.missing(f"bertscore:{given}") is not None:
        return  # the caption tells
    from transformers import AutoConfig

    name, _, layer = given.partition("@")
    with named_failure(name), quiet():
        most = AutoConfig.from_pretrained(name).num_hidden_layers
    if layer and not (layer.isdecimal() and int(layer) <= most):
        raise ConfigError(f"--bertscore {given}: {layer!r} is no layer of {name}; expected a number up to {most}")
    try:
        with quiet():
            metrics.score(f"bertscore:{given}", ["a"], [["a b", "c"]])
    except Exception as error:  # of every kind, from bert-score and from the model
        raise ConfigError(
            f"--bertscore {given}: bert-score cannot read texts with it ({type(error).__name__}: {error}); name an "
            "encoder, such as roberta-large"
        ) from error


def check_apart(found: Mapping[str, Material]) -> None:
    """Raise DataError where the same files of entities, whose names say little, would be two corpora."""
    files: dict[str, str] = {}
    for corpus, one in found.items():
        if one.task.kind == "tagging" and (other := files.setdefault(one.train.name, corpus)) != corpus:
            raise DataError(
                f"{one.train.name} would be both {other} and {corpus}; say which with --corpora, or name the folder of "
                f"each: --data {other}=FOLDER,{corpus}=FOLDER"
            )


def _splits(corpus: corpora.Corpus, place: Place) -> corpora.Splits:
    """The splits of the first folder that holds the corpus's files. Raises DataError, which names all, for none."""
    places = (place.data, *place.beside)
    refused = []  # a folder of another corpus may have files of the same names
    for data in places:
        try:
            splits = corpus.read(data) if place.own else corpus.original(Path(data))
        except DataError as error:
            refused.append(error)
            continue
        if splits is not None:
            return splits
    if refused:
        raise DataError("; ".join(map(str, refused))) from refused[0]
    raise DataError(
        f"{' and '.join(places)} {'hold' if place.beside else 'holds'} no files of {corpus.name} ({corpus.layout}); "
        f"name its folder with --data {corpus.name}=FOLDER"
    )


def examples(table: Table) -> int:
    """How many there are to draw from: a row each, but all answers to a question of MultiRC are one."""
    return len(set(_examples(table)))


def subset(table: Table, count: int, seed: str) -> Table:
    """`count` examples drawn by `seed`, in the table's own order. Raises DataError when there are not so many."""
    if count > examples(table):
        raise DataError(f"{table.name} has {examples(table)} examples; {count} were to be drawn")
    return halves(table, count, seed)[0]


def halves(table: Table, count: int, seed: str) -> tuple[Table, Table]:
    """`count` examples drawn by `seed`, and the others."""
    return _drawn(table, _examples(table), count, seed)


def _held_out(table: Table, passages: Sequence[str], seed: str) -> tuple[Table, Table]:
    """A tenth of the examples drawn by `seed`, and the others; rows that share a passage stay together.

    In SuperGLUE no passage of the validation set is one of the training set: a row's twins there would tell its answer.
    """
    keys = _sharing(table, passages) if passages else _examples(table)
    if len(set(keys)) < 2:
        keys = _examples(table)
    return _drawn(table, keys, max(len(set(keys)) // 10, 1), seed)


def _sharing(table: Table, columns: Sequence[str]) -> list[int]:
    """Of each row, what is equal in the rows that share a text with it, or with a row that does."""
    parents = list(range(len(table)))

    def first(index: int) -> int:
        while parents[index] != index:
            index = parents[index]
        return index

    seen: dict[str, int] = {}
    for index, row in enumerate(table.rows):
        for column in columns:
            parents[first(index)] = first(seen.setdefault(row[column], index))
    return [first(index) for index in range(len(table))]


def first_inputs(table: Table, count: int, seed: str) -> Table:
    """The rows of `count` inputs drawn by `seed`: references of a source and answers to a question stay together."""
    keys = [row.get("source", key) for row, key in zip(table.rows, _examples(table), strict=True)]
    return _drawn(table, keys, min(count, len(set(keys))), seed)[0]


def _examples(table: Table) -> list[Any]:
    """Of each row, what is equal in the rows of one example."""
    return [row.get("question_id", index) for index, row in enumerate(table.rows)]


def _drawn(table: Table, keys: Sequence[Any], count: int, seed: str) -> tuple[Table, Table]:
    """The rows of `count` different keys, and the others."""
    kept = set(random.Random(seed).sample(list(dict.fromkeys(keys)), count))
    parts = [[index for index, key in enumerate(keys) if (key in kept) is wanted] for wanted in (True, False)]
    inside, outside = (
        Table(table.name, [table.rows[index] for index in part], [table.lines[index] for index in part])
        for part in parts
    )
    return inside, outside


def _facts(table: Table) -> dict[str, Any]:
    text = json.dumps(table.rows, sort_keys=True, ensure_ascii=False)
    return {"rows": len(table), "sha256": hashlib.sha256(text.encode()).hexdigest()}
