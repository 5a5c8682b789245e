"""How a frozen base becomes trainable: by a prefix, or by a baseline that prefixes are compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prefixtune as pt
from prefixtune.evaluation import positions_taken
from prefixtune.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefixtune.prefix import Method


class Adaptation(ABC):
    """What is put into a base model and trained. All of them go through the same training code."""

    @abstractmethod
    def kind(self) -> str:
        """Its name, for the record."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Every option, as JSON can hold it."""

    @abstractmethod
    def attach(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make `model` trainable in this way, in place; its training checkpoints then hold what is trained, no more.

        Raises ConfigError or ModelError when it does not fit the model.
        """

    @abstractmethod
    def save(self, model: PreTrainedModel, directory: Path, metadata: Mapping[str, Any]) -> int:
        """Write what a user would keep and return how many numbers that is (or would be)."""

    def positions(self, model: PreTrainedModel) -> int:
        """How many of the base model's positions are taken from the text."""
        return 0

    def fitted(self, task: Task) -> Task:
        """The task as this adaptation needs it to hand over its batches."""
        return task


@dataclass(frozen=True)
class Prefixed(Adaptation):
    """A prefix of any method, under `name`."""

    method: Method
    name: str = "default"

    def kind(self) -> str:
        return type(self.method).name()

    def options(self) -> dict[str, Any]:
        return self.method.options()

    def attach(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        pt.attach(model, self.method, name=self.name, tokenizer=tokenizer)

    def save(self, model: PreTrainedModel, directory: Path, metadata: Mapping[str, Any]) -> int:
        from prefixtune.checkpoint import read_config

        pt.save(model, directory, name=self.name, metadata=metadata)
        return read_config(directory)["stored_parameters"]

    def positions(self, model: PreTrainedModel) -> int:
        return positions_taken(model, self.name)
