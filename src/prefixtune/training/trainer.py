"""transformers' Trainer, with what it lacks: two exact losses, one scorer for all tasks, and an order of the data that
a resumed run finds again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from prefixtune.tasks.task import token_losses

Judge = Callable[[PreTrainedModel], dict[str, float]]


class EpochSampler(LengthGroupedSampler):
    """Examples of similar length together, in an order that is a function of the seed and the epoch alone.

    Trainer's own length-grouped order comes from the global random state of the epoch's start, which a run that is
    resumed in the middle of an epoch no longer has: it would train on other batches than the run that was not killed.
    """

    def __init__(self, *, seed: int, epoch: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch())
        return super().__iter__()


class PrefixTrainer(Trainer):
    """Trainer over a model with a prefix attached.

    Args:
        judge: the metrics of the model on the development data.
        sentence_sum: the loss is summed over a sentence's tokens and averaged over sentences, instead of averaged
            over tokens. Either way a step's loss is exact under gradient accumulation.
        shifted: the logits at position t predict the label at t + 1.
    """

    def __init__(self, *, judge: Judge | None, sentence_sum: bool, shifted: bool, **options: Any) -> None:
        self.judge, self.sentence_sum, self.shifted = judge, sentence_sum, shifted
        super().__init__(compute_loss_func=self._loss, **options)

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total, count = token_losses(outputs["logits"], labels, shifted=self.shifted)
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.sentence_sum:
            items = torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)
            if self.args.world_size > 1:
                items = self.accelerator.gather(items).sum()
        return batches, items

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(
            seed=self.args.seed,
            epoch=lambda: int(self.state.epoch or 0),
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps,
            dataset=self.train_dataset if train_dataset is None else train_dataset,
        )

    def evaluation_loop(
        self, dataloader: Any, description: str, prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:  # fmt: skip
        """Scored by the judge, so that training and `prefixtune evaluate` can never disagree."""
        assert self.judge is not None and isinstance(self.model, PreTrainedModel)
        scores = {f"{metric_key_prefix}_{name}": value for name, value in self.judge(self.model).items()}
        nothing = np.empty(0)  # the judge keeps the answers to itself
        return EvalLoopOutput(
            predictions=nothing, label_ids=None, metrics=scores, num_samples=len(dataloader.dataset)
        )
