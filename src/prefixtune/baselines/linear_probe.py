"""Linear probe: a new head on the frozen model, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefixtune.training.baseline import Baseline


@dataclass(kw_only=True)
class LinearProbe(Baseline):
    """The head alone. A language model has no new head, so there it is refused."""

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing is added."""
