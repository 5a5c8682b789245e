"""transformers' Trainer, with what it lacks: two exact losses, one scorer for all tasks, and an order of the data that
a resumed run finds again."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    ProgressCallback,
    SchedulerType,
    Trainer,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from prefixtune.bank import Bank, bank_of, names_in
from prefixtune.errors import ConfigError, Unsuited
from prefixtune.heads import BANK
from prefixtune.layout import Layout, examples
from prefixtune.packing import declare
from prefixtune.tasks.loading import check_tokens
from prefixtune.tasks.task import longest, token_losses
from prefixtune.training import activations, results
from prefixtune.training.activations import Activations
from prefixtune.training.bench import Bench
from prefixtune.training.config import RunConfig

TRAINER_STATE = "trainer_state.json"
PLATEAU = SchedulerType.REDUCE_ON_PLATEAU.value
Judge = Callable[[Any], dict[str, float]]
Rates = Sequence[tuple[list[nn.Parameter], float]]


class EpochSampler(LengthGroupedSampler):
    """Examples of similar length together, in an order that is a function of the seed and the epoch alone.

    Trainer's own length-grouped order comes from the global random state of the epoch's start, which a run that is
    resumed in the middle of an epoch no longer has: it would train on other batches than the run that was not killed.
    It also runs from long to short examples fifty batches at a time, which shows as saw teeth in the loss; here the
    batches come in random order. The longest stays first, so that a lack of memory shows at once.
    """

    def __init__(self, *, seed: int, epoch: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch())
        order = list(super().__iter__())
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        whole = sum(len(batch) == self.batch_size for batch in batches)
        shuffled = (torch.randperm(max(whole - 1, 0), generator=self.generator) + 1).tolist()
        places = [*range(min(whole, 1)), *shuffled, *range(whole, len(batches))]  # a short batch can only come last
        return iter([index for place in places for index in batches[place]])


PACKING_PAYS = 0.08
"""From what share of padding on packing is chosen for tasks that predict at every word: with 5 % (CoNLL-2003) it was
as fast as padding or a little slower, with 27 % (CoNLL04) clearly faster. A decoder's unneeded logits go as well."""


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """The share of padding in the batches of an epoch, examples of `lengths` in the order of `EpochSampler`."""
    order = list(EpochSampler(seed=0, epoch=lambda: 0, batch_size=batch_size, lengths=list(lengths)))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    padded = sum(max(lengths[index] for index in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths) / padded


class PrefixTrainer(Trainer):
    """Trainer over a model with a prefix attached, or any other that is trained on the same footing.

    Args:
        judge: the metrics of the model on the development data.
        sentence_sum: the loss is summed over a sentence's tokens and averaged over sentences, instead of averaged
            over tokens. Either way a step's loss is exact under gradient accumulation.
        layout: how batches are made, and where their labels' logits are.
        rates: parameters whose learning rate is not that of the rest, and their rate.
        kept: what the layers below the lowest prefix make of the training examples; None: they run in every step.
    """

    def __init__(
        self, *, judge: Judge | None, sentence_sum: bool, layout: Layout, rates: Rates = (),
        kept: Activations | None = None, train_dataset: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.judge, self.sentence_sum, self.layout, self.rates = judge, sentence_sum, layout, rates
        self.kept = kept
        super().__init__(
            compute_loss_func=self._loss,
            data_collator=layout.collate if kept is None else kept.collate,
            train_dataset=train_dataset if kept is None else kept.numbered(),
            **options,
        )

    def train_from(self, checkpoint: Path | None) -> None:
        """Train, from `checkpoint` on where there is one. Of a run that had ended the best one is only loaded.

        Trainer would take steps more from there where the last one lies inside an epoch or patience was used up.
        """
        state = None if checkpoint is None else TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        if checkpoint is None or state is None or not _ended(state):
            if state is not None:  # as steps, not as a share of them, or Trainer warns that it differs
                self.args.logging_steps = state.logging_steps
            with self._bars_closed():
                self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            return
        chosen = state.best_global_step if self.args.load_best_model_at_end else None
        best = checkpoint if chosen is None else checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{chosen}")
        self._load_from_checkpoint(str(best))
        self.state = state

    @contextlib.contextmanager
    def _bars_closed(self) -> Iterator[None]:
        """The bar of a training that fails ends its line, or the message that follows would stand behind it."""
        try:
            yield
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                    callback.training_bar.close()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # fmt: skip
        """The loss over the labels; logits are computed nowhere else, where the model can leave them out."""
        _stop_at_the_lowest_prefix(self.model)
        with contextlib.nullcontext(inputs) if self.kept is None else self.kept.entered(model, inputs) as batch:
            with declare():
                return super().compute_loss(model, self.layout.aligned(batch), return_outputs, num_items_in_batch)

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total, count = token_losses(outputs["logits"], labels)
        items = count if num_items_in_batch is None else num_items_in_batch
        # Where all labels are ignored, 0 and not 0 / 0, which would stay in Trainer's running sum for good.
        return total / (items.clamp(min=1) if isinstance(items, Tensor) else max(items, 1))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.sentence_sum:
            items = torch.tensor(sum(examples(batch) for batch in batches), device=device)
            if self.args.world_size > 1:
                items = self.accelerator.gather(items).sum()
        return batches, items

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Transformers' own: no biases, no norms. What a prefix is called, `unbiased` say, takes no part in it."""
        bank = model._modules.get(BANK)
        found = super().get_decay_parameter_names(model)
        if not isinstance(bank, Bank):
            return found
        found = [name for name in found if not name.startswith(f"{BANK}.")]
        for kind in ("entries", "heads"):
            for key, module in bank.get_submodule(kind).named_children():
                found += [f"{BANK}.{kind}.{key}.{name}" for name in super().get_decay_parameter_names(module)]
        return found

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Transformers' own, with a group for each learning rate. The schedule scales each from its own peak."""
        optimizer = super().create_optimizer(model)
        for parameters, rate in self.rates:
            chosen = {id(parameter) for parameter in parameters}
            for group in list(optimizer.param_groups):
                own = [parameter for parameter in group["params"] if id(parameter) in chosen]
                if own:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(
            seed=self.args.seed,
            epoch=lambda: int(self.state.epoch or 0),
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=[*map(longest, self.train_dataset)],  # type: ignore[arg-type]
        )

    def evaluation_loop(
        self, dataloader: Any, description: str, prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:  # fmt: skip
        """Scored by the judge, so that training and `prefixtune evaluate` can never disagree."""
        assert self.judge is not None
        scores = {f"{metric_key_prefix}_{name}": value for name, value in self.judge(self.model).items()}
        nothing = np.empty(0)  # the judge keeps the answers to itself
        return EvalLoopOutput(predictions=nothing, label_ids=None, metrics=scores, num_samples=len(dataloader.dataset))


def _ended(state: TrainerState) -> bool:
    """Whether a checkpoint is of a run's last step, or of the one that used its patience up."""
    kept: Any = state.stateful_callbacks
    stopped = kept.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False)
    return state.global_step >= state.max_steps or bool(stopped)


def build_trainer(config: RunConfig, bench: Bench, metric: str | None) -> PrefixTrainer:
    """The Trainer of a run, its training checkpoints under OUTPUT/checkpoints."""
    _check_schedule(config, metric)
    if config.gradient_checkpointing and not bench.model.supports_gradient_checkpointing:
        raise ConfigError(f"gradient_checkpointing: {type(bench.model).__name__} does not support it; leave it out")
    try:
        arguments = TrainingArguments(**_trainer_options(config, metric))
    except (ValueError, ImportError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    _refuse_several_devices(arguments)
    answered = metric != "loss" or bench.task.chooses != "loss"  # texts are generated only where they are judged

    def judge(model: Any) -> dict[str, float]:
        assert bench.data.eval is not None
        return bench.measure(bench.data.eval, answered=answered)

    task, model = bench.task, bench.model
    features = task.training_features(bench.data.train, model, bench.tokenizer, bench.room)
    check_tokens(features, model, bench.tokenizer)
    _check_warmup(config, len(features))
    spares = task.shifted(model) or padding_share([*map(longest, features)], config.batch_size) >= PACKING_PAYS
    layout = task.layout(model, bench.tokenizer, config.packing if spares or config.packing != "auto" else "never")
    seen = arguments.max_steps * config.batch_size * config.gradient_accumulation / max(len(features), 1)
    kept = activations.keep(
        model, layout, features, batch_size=config.batch_size, budget=config.activation_cache,
        passes=seen if arguments.max_steps > 0 else config.epochs, checkpointing=config.gradient_checkpointing,
    )  # fmt: skip
    rates = part_rates(config, model)
    try:
        with _tensorboard_in(Path(config.output) / "tensorboard"):
            return PrefixTrainer(
                judge=judge,
                sentence_sum=config.loss == "sentence_sum",
                layout=layout,
                rates=rates,
                kept=kept,
                model=model,
                args=arguments,
                train_dataset=features,
                eval_dataset=None if bench.data.eval is None else bench.data.eval.rows,
                callbacks=[] if config.patience is None else [EarlyStoppingCallback(config.patience)],
            )
    except (RuntimeError, ValueError) as error:  # a reporter that is unknown, or whose library is not installed
        raise ConfigError(" ".join(str(error).split())) from error


def _refuse_several_devices(arguments: TrainingArguments) -> None:
    if arguments.n_gpu > 1:
        raise ConfigError(f"{arguments.n_gpu} GPUs are visible, but a run uses one: set CUDA_VISIBLE_DEVICES=0")
    if arguments.world_size > 1:
        raise ConfigError(f"{arguments.world_size} processes were launched, but a run is one: use no launcher")


def _check_warmup(config: RunConfig, examples: int) -> None:
    """Raise ConfigError where the epochs end before the warm-up; of `max_steps` the configuration knows by itself."""
    batches = math.ceil(examples / config.batch_size)
    steps = math.ceil(math.ceil(batches / config.gradient_accumulation) * config.epochs)
    if config.max_steps is None and config.warmup >= max(steps, 1):
        raise ConfigError(
            f"warmup is {config.warmup} but {config.epochs} epochs are {steps} steps, so its rate would never be "
            "reached; expected fewer, or a share of them"
        )


def part_rates(config: RunConfig, model: nn.Module) -> Rates:
    """The parameters of every part that has a learning rate of its own. ConfigError for one that is not there."""
    if not config.part_lr:
        return []
    parts = {} if config.name not in names_in(model) else bank_of(model).parts(config.name)
    for part in config.part_lr:
        if not parts.get(part):
            has = ", ".join(name for name, parameters in parts.items() if parameters) or "no such parts"
            raise Unsuited(f"part_lr: what {config.method} trains has no {part}; it has: {has}")
    return [(parts[part], rate) for part, rate in config.part_lr.items()]


def _stop_at_the_lowest_prefix(model: Any) -> None:
    """Under checkpointing, Trainer has the embeddings' output require a gradient, and so every layer a backward.

    Only reentrant checkpointing needs that, which the seam refuses.
    """
    if isinstance(model, PreTrainedModel) and names_in(model) and vars(model).get("_require_grads_hooks"):
        model.disable_input_require_grads()


@contextlib.contextmanager
def _tensorboard_in(folder: Path) -> Iterator[None]:
    """TensorBoard's files beside the checkpoints, which are removed in the end, unless the user chose a place."""
    name = "TENSORBOARD_LOGGING_DIR"
    chosen = os.environ.get(name)
    os.environ[name] = chosen or str(folder)
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[name]


def _trainer_options(config: RunConfig, metric: str | None) -> dict[str, Any]:
    when = "epoch" if config.eval_every is None else "steps"
    chooses: dict[str, Any] = {}
    if metric is not None:
        chooses = {
            "eval_strategy": when, "eval_steps": config.eval_every, "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{metric}", "greater_is_better": metric != "loss",
        }  # fmt: skip
    return {
        "output_dir": str(Path(config.output) / results.CHECKPOINTS),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.eval_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.lr,
        "warmup_steps": config.warmup,
        "lr_scheduler_type": _schedule(config),
        "lr_scheduler_kwargs": {"mode": "min" if metric == "loss" else "max"} if config.schedule == PLATEAU else {},
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.clip,
        "seed": config.seed,
        "bf16": config.precision == "bf16",
        "fp16": config.precision == "fp16",
        **_checkpointing(config.gradient_checkpointing),
        "logging_steps": config.logging_steps,
        "save_strategy": when,
        "save_steps": config.eval_every or 500,
        "save_total_limit": 1,
        "report_to": config.report_to.split(","),
        "logging_nan_inf_filter": False,
        "restore_callback_states_from_checkpoint": True,  # the patience that is used up
        "remove_unused_columns": False,
        "use_cpu": not torch.accelerator.is_available(),  # or bf16 is refused for want of a GPU
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "label_names": ["labels"],
        **chooses,
    }


def _schedule(config: RunConfig) -> str:
    """Transformers' name: its `constant` would leave the warm-up out without a word."""
    return "constant_with_warmup" if config.schedule == "constant" and config.warmup else config.schedule


def _check_schedule(config: RunConfig, metric: str | None) -> None:
    """Raise ConfigError for a schedule that needs arguments which a run has no options for, or would not use one."""
    name = _schedule(config)
    if name == "greedy":
        raise ConfigError(f"schedule {name!r} has rates of its own, from 1e-3 on; expected another, as linear")
    if name == PLATEAU and (metric is None or config.warmup):
        lacking = "has no warm-up; leave --warmup out" if config.warmup else "looks at development data; give --eval"
        raise ConfigError(f"schedule {name!r} {lacking}, or choose another, as linear or constant")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    try:
        get_scheduler(SchedulerType(name), optimizer, num_warmup_steps=1, num_training_steps=2)
    except TypeError as error:
        raise _needing(name, error) from error
    except ValueError as error:
        if name in list(SchedulerType):
            raise _needing(name, error) from error
        known = ", ".join(kind.value for kind in SchedulerType)
        raise ConfigError(f"unknown schedule {name!r}; expected one of: {known}") from error


def _needing(name: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())
    return ConfigError(
        f"schedule {name!r} needs arguments that a run has no options for ({reason}); expected another, as linear, "
        "constant or cosine"
    )


def _checkpointing(wanted: bool) -> dict[str, bool]:
    """Activation checkpointing under the name this version of transformers has for it (renamed after 5.16)."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    return {"activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing": wanted}
