"""The configuration of a training run. Every field is a flag of `prefixtune train` and a key of its YAML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from prefixtune import kinds
from prefixtune.errors import ConfigError, near_miss

MOST_SEED = 2**32 - 1
LOSSES = ("token_mean", "sentence_sum")
PRECISIONS = ("fp32", "bf16", "fp16")
TAG_SCHEMES = ("as_given", "iob2")
PARTS = ("keys", "values", "gates", "mlp", "head")
PACKING = ("auto", "always", "never")
_OPTIONAL = {name: ", or leave it out" for name in ("eval", "test")}
ACTIVATION_CACHE = 2.0
"""GiB that `activation_cache` takes at most unless it says otherwise."""


@dataclass(kw_only=True)
class RunConfig:
    """What to train, on what, and how. The options of the prefix itself belong to its method."""

    model: str
    """The base model: a folder or a hub id."""

    task: str
    """text2text, classification, tagging, spans or choice."""

    train: str
    """Training data: a .jsonl, .csv, .tsv, .json or CoNLL file, or a hub data set id."""

    method: str
    """How the prefix is parameterised: the name of a method."""

    output: str
    """Result folder: a new or empty one, or the one of the run that --resume continues."""

    eval: str | None = None
    """Development data: chooses the best checkpoint and, with --patience, stops early."""

    test: str | None = None
    """Test data: scored once, with the best checkpoint."""

    name: str = "default"
    """Name of the prefix in the model."""

    columns: dict[str, str] | None = None
    """Renames of columns: source=mr,target=ref reads the column `mr` as `source`."""

    data_format: str | None = None
    """Format of files whose extension does not say: jsonl, json, csv, tsv, conll, conllx (numbered words)."""

    subset: str | None = None
    """Configuration of the hub data set."""

    train_split: str = "train"
    """Split that --train takes of a hub data set."""

    eval_split: str = "validation"
    """Split that --eval takes of a hub data set."""

    test_split: str = "test"
    """Split that --test takes of a hub data set."""

    separator: str = "\n"
    """Text to text on a decoder: what stands between source and target."""

    tag_scheme: str = "as_given"
    """Tagging: 'as_given', or 'iob2' to convert BILOU or IOBES tags to IOB2."""

    max_length: int | None = None
    """The most input tokens; longer inputs are cut. Default: what the model has positions for."""

    max_target_length: int | None = None
    """Text to text: the most target tokens trained on."""

    end_token: str | None = None
    """Text to text: the token that ends a target. Default: the tokenizer's end token, which not every base learned."""

    loss: str = "token_mean"
    """'token_mean', or 'sentence_sum': summed over a sentence's tokens, averaged over sentences (Prefix-Tuning)."""

    lr: float = 5e-3
    """Peak learning rate: 5e-3 to 3e-2 for free prefixes; 5e-5 with --loss sentence_sum for prefix_tuning's MLP."""

    part_lr: dict[str, float] | None = None
    """Peak learning rates of parts for which --lr is not right: keys, values, gates, mlp, head; as in keys=0.3."""

    epochs: float = 10.0
    """Passes over the training data."""

    max_steps: int | None = None
    """Optimiser steps, instead of epochs."""

    batch_size: int = 32
    """Training examples per batch and device."""

    eval_batch_size: int = 32
    """Examples per batch in evaluation."""

    gradient_accumulation: int = 1
    """Batches whose gradients make one step."""

    warmup: float = 0.0
    """Warm-up of the learning rate: steps (1 or more) or a fraction of all steps."""

    schedule: str = "linear"
    """Learning rate schedule, by its name in transformers: linear, constant, cosine ..."""

    weight_decay: float = 0.0
    """Weight decay of AdamW."""

    clip: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""

    seed: int = 42
    """Seed of the prefix, the head, the dropout and the order of the data."""

    base_dropout: bool = True
    """Keep the base model's own dropout in training. Prefix-Tuning turns it off for table-to-text."""

    dtype: str = "auto"
    """Type of the base model's weights: auto (as stored), float32, bfloat16, float16."""

    precision: str = "fp32"
    """Mixed precision in training: fp32 (none), bf16, fp16."""

    gradient_checkpointing: bool = False
    """Save memory by computing activations twice."""

    packing: str = "auto"
    """Pack training batches into one row without padding: 'auto' (where exact and faster), 'always' or 'never'."""

    activation_cache: float | None = None
    """Most memory, in GiB, for keeping what the layers below the lowest prefix compute; 0: off. Default: 2."""

    metric: str | None = None
    """What chooses the best checkpoint: loss, or a metric of the task. Default: f1 or accuracy; text2text: loss."""

    patience: int | None = None
    """Stop when the metric has not improved for this many evaluations."""

    eval_every: int | None = None
    """Steps between evaluations, each with a checkpoint. Default: every epoch."""

    logging_steps: float = 0.02
    """Steps between logs of the training loss (1 or more), or a fraction of all steps."""

    report_to: str = "none"
    """Where transformers' Trainer reports to: none, tensorboard, wandb ..."""

    keep_checkpoints: bool = False
    """Keep OUTPUT/checkpoints after a run has finished."""

    beams: int = 1
    """Text to text: beams of the search in evaluation; 1 is greedy."""

    max_new_tokens: int = 128
    """Text to text: the most tokens generated in evaluation."""

    length_penalty: float = 1.0
    """Text to text: exponent of the length that a beam's score is divided by."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(RunConfig).items():
            check_kind(name, getattr(self, name), kind)
        choices = {"loss": LOSSES, "precision": PRECISIONS, "tag_scheme": TAG_SCHEMES, "packing": PACKING}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}{near_miss(getattr(self, name), known)}")
        for name in ("model", "train", "output", "eval", "test"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty; expected a name or a path" + _OPTIONAL.get(name, ""))
        for name in ("batch_size", "eval_batch_size", "gradient_accumulation", "beams", "max_new_tokens"):
            self._at_least(name, 1)
        for name in ("max_length", "max_target_length", "max_steps", "patience", "eval_every"):
            if getattr(self, name) is not None:
                self._at_least(name, 1)
        if self.activation_cache is not None:
            self._at_least("activation_cache", 0)
        if self.part_lr is not None:
            self.part_lr = {part: _rate(part, rate) for part, rate in self.part_lr.items()}
        for name in ("lr", "epochs", "logging_steps"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value!r}; expected a number above 0")
        if not math.isfinite(self.length_penalty):
            raise ConfigError(f"length_penalty is {self.length_penalty!r}; expected a number")
        if not 0 <= self.seed <= MOST_SEED:
            raise ConfigError(f"seed is {self.seed!r}; expected a whole number from 0 to {MOST_SEED}")
        for name in ("warmup", "weight_decay", "clip"):
            self._at_least(name, 0)
            if getattr(self, name) == math.inf:
                raise ConfigError(f"{name} is inf; expected a number")
        if self.max_steps is not None and self.warmup >= self.max_steps:
            raise ConfigError(
                f"warmup is {self.warmup} but the run has {self.max_steps} steps, so its rate would never be reached; "
                "expected fewer"
            )
        if self.eval is None and (self.metric is not None or self.patience is not None):
            raise ConfigError("--metric and --patience choose by development data; name it with --eval")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not value >= least:
            raise ConfigError(f"{name} is {value!r}; expected at least {least}")

    def settings(self) -> dict[str, Any]:
        """The fields that are set, as YAML and JSON hold them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise ConfigError for a value of another kind than the field's: 2.5 as a batch size, a number for yes or no."""
    if not kinds.is_of(value, kind):
        raise ConfigError(f"{name} is {value!r}; expected {kinds.told(kind)}")


def _rate(part: str, rate: Any) -> float:
    """A part's learning rate as a number: YAML takes 1e-2 for a word."""
    if part not in PARTS:
        raise ConfigError(f"part_lr: unknown part {part!r}{near_miss(part, PARTS)}")
    try:
        number = float(rate)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        raise ConfigError(f"part_lr: the rate of {part} is {rate!r}; expected a number above 0")
    return number
