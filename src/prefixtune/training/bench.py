"""What a run works with: its data, and the base model with what is trained in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prefixtune import tasks
from prefixtune.evaluation import measure
from prefixtune.tasks import Decoding, Table, Task, Window
from prefixtune.tasks.loading import load_base, window
from prefixtune.training import results
from prefixtune.training.adaptation import Adaptation
from prefixtune.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Scorer = Callable[[Sequence[Any], Table], dict[str, float]]
"""Scores of answers, one a row of a prepared table (text to text: one a source)."""


@dataclass(frozen=True)
class Data:
    """The prepared tables of a run; development and test data are optional.

    Args:
        tests: further test data by name.
        more: further scores of the answers to `tests`.
        facts: what tells each table from another one, for the record and for resuming.
    """

    train: Table
    eval: Table | None
    test: Table | None
    tests: Mapping[str, Table] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    more: Scorer | None = None

    def scores(self, task: Task, answers: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float]]:
        """Of the answers to each of `tests`: the task's metrics and `more`."""
        found = {}
        for name, table in self.tests.items():
            found[name] = task.score(answers[name], table)
            if self.more is not None:
                found[name] |= self.more(answers[name], table)
        return found


@dataclass(frozen=True)
class Bench:
    """What a run works with once everything is loaded. `base_size` counts what the base model and its head hold."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    data: Data
    room: Window
    decoding: Decoding
    batch_size: int
    base_size: int = 0

    def measure(self, table: Table, *, answered: bool = True) -> dict[str, float]:
        """Loss and metrics of the model as it stands."""
        return measure(
            self.model, self.tokenizer, self.task, table, self.room, batch_size=self.batch_size,
            decoding=self.decoding, answered=answered,
        )  # fmt: skip

    def answers(self) -> dict[str, list[Any]]:
        """What the model as it stands answers to each further test table."""
        tables = self.data.tests
        answers = self.task.answers_to(
            self.model, self.tokenizer, list(tables.values()), self.room, batch_size=self.batch_size,
            decoding=self.decoding,
        )  # fmt: skip
        return dict(zip(tables, answers, strict=True))


def read_data(config: RunConfig) -> tuple[Task, Data]:
    """The task as the training data define it, and all tables checked against it."""
    kind = tasks.find(config.task)
    columns = tasks.check_columns(config.columns or {}, (*kind.required, *kind.optional))

    def table(given: str, split: str) -> Table:
        return tasks.read(given, split=split, subset=config.subset, form=config.data_format, columns=columns)

    train_table = table(config.train, config.train_split)
    task = kind.learn(
        train_table, separator=config.separator, max_target_length=config.max_target_length,
        end_token=config.end_token, tag_scheme=config.tag_scheme,
    )  # fmt: skip
    eval_table = task.prepared(table(config.eval, config.eval_split)) if config.eval else None
    test_table = task.prepared(table(config.test, config.test_split)) if config.test else None
    given = {"train": config.train, "eval": config.eval, "test": config.test}
    data = Data(train=task.prepared(train_table), eval=eval_table, test=test_table)
    return task, replace(data, facts=_facts(data, given))


def _facts(data: Data, given: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    tables = {"train": data.train, "eval": data.eval, "test": data.test}
    return {
        role: {"rows": len(table), "sha256": results.digest(path)}
        for role, path in given.items()
        if path is not None and (table := tables[role]) is not None
    }


def set_up(config: RunConfig, adaptation: Adaptation, task: Task, data: Data) -> Bench:
    """Load the base model and make it trainable, all of it a function of the seed."""
    from transformers import set_seed

    set_seed(config.seed)  # before the new head is drawn
    task = adaptation.fitted(task)
    model, tokenizer = load_base(config.model, task, dtype=config.dtype, dropout=config.base_dropout)
    base_size = sum(parameter.numel() for parameter in model.parameters())
    adaptation.attach(model, tokenizer)
    room = window(model, tokenizer, adaptation.positions(model), config.max_length)
    decoding = Decoding(beams=config.beams, max_new_tokens=config.max_new_tokens, length_penalty=config.length_penalty)
    return Bench(model, tokenizer, task, data, room, decoding, config.eval_batch_size, base_size)
