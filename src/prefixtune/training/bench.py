"""What a run works with: its data, and the base model with the prefix in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import prefixtune as pt
from prefixtune import tasks
from prefixtune.evaluation import measure, positions_taken
from prefixtune.tasks import Decoding, Table, Task, Window
from prefixtune.tasks.loading import load_base, window
from prefixtune.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefixtune.prefix import Method


@dataclass(frozen=True)
class Data:
    """The prepared tables of a run; development and test data are optional."""

    train: Table
    eval: Table | None
    test: Table | None


@dataclass(frozen=True)
class Bench:
    """What a run works with once everything is loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    data: Data
    room: Window
    decoding: Decoding
    batch_size: int

    def measure(self, table: Table, *, answered: bool = True) -> dict[str, float]:
        """Loss and metrics of the prefix as it stands."""
        return measure(
            self.model, self.tokenizer, self.task, table, self.room, batch_size=self.batch_size,
            decoding=self.decoding, answered=answered,
        )  # fmt: skip


def read_data(config: RunConfig) -> tuple[Task, Data]:
    """The task as the training data define it, and all tables checked against it."""
    kind = tasks.find(config.task)
    columns = tasks.check_columns(config.columns or {}, (*kind.required, *kind.optional))

    def table(given: str, split: str) -> Table:
        return tasks.read(given, split=split, subset=config.subset, form=config.data_format, columns=columns)

    train_table = table(config.train, config.train_split)
    task = kind.learn(
        train_table, separator=config.separator, max_target_length=config.max_target_length,
        tag_scheme=config.tag_scheme,
    )  # fmt: skip
    eval_table = task.prepared(table(config.eval, config.eval_split)) if config.eval else None
    test_table = task.prepared(table(config.test, config.test_split)) if config.test else None
    return task, Data(train=task.prepared(train_table), eval=eval_table, test=test_table)


def set_up(config: RunConfig, method: Method, task: Task, data: Data) -> Bench:
    """Load the base model and attach a fresh prefix, all of it a function of the seed."""
    from transformers import set_seed

    set_seed(config.seed)  # before the new head is drawn
    model, tokenizer = load_base(config.model, task, dtype=config.dtype, dropout=config.base_dropout)
    model = pt.attach(model, method, name=config.name, tokenizer=tokenizer)
    room = window(model, tokenizer, positions_taken(model, config.name), config.max_length)
    decoding = Decoding(
        beams=config.beams, max_new_tokens=config.max_new_tokens, length_penalty=config.length_penalty
    )
    return Bench(model, tokenizer, task, data, room, decoding, config.eval_batch_size)
