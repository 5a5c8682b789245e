"""Full fine-tuning: every weight of the base model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefixtune.training.baseline import Baseline


@dataclass(kw_only=True)
class FullFineTuning(Baseline):
    """All weights, the head included."""

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        model.requires_grad_(True)
