"""What every task family gives: which columns, which model class, how rows become features, how answers are scored."""

from __future__ import annotations

import abc
import functools
import importlib.util
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_origin, get_type_hints

from prefixtune import kinds
from prefixtune.errors import ConfigError, DataError
from prefixtune.tasks.readers import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from prefixtune.layout import Batch, Collate, Layout

Feature = dict[str, Any]
IGNORED = -100
"""The label that takes no part in the loss (the convention of torch and transformers)."""


@dataclass(frozen=True)
class Window:
    """How many tokens fit.

    Args:
        positions: the most real tokens the model has positions for beside the prefix; None: no bound.
        max_length: the bound the user set on the input; None: only `positions` counts.
        targets: the most target tokens of an encoder-decoder; None: no bound.
    """

    positions: int | None = None
    max_length: int | None = None
    targets: int | None = None

    def inputs(self, reserved: int = 0) -> int | None:
        """The most input tokens when `reserved` further tokens must fit behind them; None: no bound."""
        bounds = [] if self.positions is None else [self.positions - reserved]
        bounds += [] if self.max_length is None else [self.max_length]
        return min(bounds, default=None)


@dataclass(frozen=True)
class Decoding:
    """How text is generated. Greedy unless said otherwise."""

    beams: int = 1
    """Beams of the search; 1 is greedy."""
    max_new_tokens: int = 128
    """The most tokens generated."""
    sample: bool = False
    """Draw each token instead of taking the likeliest."""
    temperature: float = 1.0
    """Divides the logits before sampling."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    length_penalty: float = 1.0
    """Exponent of the length that a beam's score is divided by."""
    decode_seed: int = 0
    """Seed of the sampling."""

    def __post_init__(self) -> None:
        for name in ("beams", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not math.isfinite(self.length_penalty):
            raise ConfigError(f"length_penalty is {self.length_penalty}; expected a number")
        if not 0 <= self.decode_seed < 2**63:
            raise ConfigError(f"seed is {self.decode_seed}; expected a whole number from 0")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; expected a number above 0 (1 leaves the logits)")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; expected a probability above 0, at most 1")


def check_types(stored: Decoding | Task) -> None:
    """Raise ConfigError where a field that was read from a file is of another type than it is declared."""
    for name, kind in get_type_hints(type(stored)).items():
        if get_origin(kind) is not ClassVar and not kinds.is_of(value := getattr(stored, name), kind):
            told = kind.__name__ if isinstance(kind, type) else kind
            raise ConfigError(f"{name} is {str(value)[:60]!r}, expected {told}")


@dataclass(frozen=True)
class Prediction:
    """What a model makes of a table.

    Args:
        loss: mean cross-entropy over the labels (tokens, words or texts).
        answers: one answer a row; None when only the loss was asked for.
    """

    loss: float
    answers: list[Any] | None


@dataclass(frozen=True)
class Task(abc.ABC):
    """One task family. Its fields are stored with a prefix, so that evaluation needs nothing but the prefix folder."""

    kind: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]]
    """Modules that `score` imports; they come with the extra `metrics`."""

    def check_libraries(self) -> None:
        """A `ConfigError` before the work begins, rather than after it, when a metric's library is not installed."""
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"the metrics of {self.kind} need {', '.join(missing)}: pip install 'prefixtune[metrics]'"
            )

    @classmethod
    @abc.abstractmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        """The task as the training rows define it (its labels)."""

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Self:
        """The task a prefix folder describes. Raises ConfigError for a value of another type than the task's own."""
        fields = {key: value for key, value in metadata.items() if key != "kind"}
        task = cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})
        check_types(task)
        return task

    def metadata(self) -> dict[str, Any]:
        """Everything `from_metadata` needs, ready for JSON."""
        return {"kind": self.kind, **asdict(self)}

    @abc.abstractmethod
    def prepared(self, table: Table) -> Table:
        """The table checked against this task and brought to its column types; a `DataError` names the row."""

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""

    @property
    @abc.abstractmethod
    def chooses(self) -> str:
        """The metric (or "loss") that chooses the best checkpoint unless the user says otherwise."""

    @abc.abstractmethod
    def model_class(self, config: PretrainedConfig) -> Any:
        """The `AutoModelFor...` class that loads the base model."""

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`: the labels, where there is a new head."""
        return {}

    @abc.abstractmethod
    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        """Training examples, one a row, unpadded."""

    def training_features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        """`features`, with a word on what training cannot help: inputs that were cut."""
        features = self.features(table, model, tokenizer, window)
        tell_of_cuts(table.name, [*map(longest, features)], window.inputs())
        return features

    @abc.abstractmethod
    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        """What pads a list of features into a batch."""

    def packer(self, model: PreTrainedModel) -> Collate | None:
        """What packs a list of features into one row, without padding; None where labels are not those of tokens."""
        return None

    def layout(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, packing: str = "auto") -> Layout:
        """How batches are made: packed where `model` is proved to take that (see `prefixtune.layout`), or padded."""
        from prefixtune.layout import choose

        pad, pack = self.collator(model, tokenizer), self.packer(model)
        return choose(model, pad, pack, shifted=self.shifted(model), wanted=packing)

    @abc.abstractmethod
    def shifted(self, model: PreTrainedModel) -> bool:
        """Whether the logits at position t predict the label at t + 1."""

    @abc.abstractmethod
    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, table: Table, window: Window, *,
        batch_size: int, decoding: Decoding, answered: bool,
    ) -> Prediction:  # fmt: skip
        """The loss on the prepared `table` and, when `answered`, one answer a row (a source for text to text)."""

    @abc.abstractmethod
    def answers_to(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tables: Sequence[Table], window: Window, *,
        batch_size: int, decoding: Decoding,
    ) -> list[list[Any]]:  # fmt: skip
        """The answers to each of the prepared `tables`, as `predict` has them, without more work than they need."""

    def answer_count(self, table: Table) -> int:
        """How many answers there are to a prepared table: one a row."""
        return len(table)

    @abc.abstractmethod
    def score(self, answers: Sequence[Any], table: Table) -> dict[str, float]:
        """The metrics of `answers`, one a row of the prepared `table`. Fractions, except BLEU and chrF (0 to 100)."""


@dataclass(frozen=True)
class HeadTask(Task):
    """A task whose answers are read off the logits of a new head."""

    @abc.abstractmethod
    def answers(self, logits: torch.Tensor, features: Sequence[Feature]) -> list[Any]:
        """What the model answers to `features`, from its logits, a row each, padded on the right."""

    def shifted(self, model: PreTrainedModel) -> bool:
        return False

    @property
    def chooses(self) -> str:
        return self.metrics[0]

    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, table: Table, window: Window, *,
        batch_size: int, decoding: Decoding, answered: bool,
    ) -> Prediction:  # fmt: skip
        features = self.features(table, model, tokenizer, window)
        tell_of_cuts(table.name, [*map(longest, features)], window.inputs())
        found: list[Any] = [None] * len(features)
        total, count = 0.0, 0
        for rows, logits, labels in batch_logits(model, features, self.layout(model, tokenizer).collate, batch_size):
            loss, labelled = token_losses(logits, labels)
            total, count = total + float(loss), count + int(labelled)
            batch = [features[row] for row in rows]
            for row, answer in zip(rows, self.answers(_a_row_each(logits, batch), batch), strict=True):
                found[row] = answer
        return Prediction(loss=total / max(count, 1), answers=found if answered else None)

    def answers_to(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tables: Sequence[Table], window: Window, *,
        batch_size: int, decoding: Decoding,
    ) -> list[list[Any]]:  # fmt: skip
        found = [
            self.predict(model, tokenizer, table, window, batch_size=batch_size, decoding=decoding, answered=True)
            for table in tables
        ]
        return [prediction.answers or [] for prediction in found]


def refuse_empty(table: Table, counts: Iterable[int]) -> None:
    """Raise DataError for a row of no token: where a tokenizer begins no text, a head would read a padding's state."""
    for index, count in enumerate(counts):
        if not count:
            raise DataError(f"{table.where(index)}: the text is empty; expected at least one token, or no such row")


def texts_of(feature: Feature) -> list[list[int]]:
    """The token ids of an example's texts: one, or one for each choice."""
    ids = feature["input_ids"]
    return ids if ids and isinstance(ids[0], list) else [ids]


def longest(feature: Feature) -> int:
    """How many tokens the longest of an example's texts has: what its batch is padded for."""
    return max(map(len, texts_of(feature)))


def batches_by_length(features: Sequence[Feature], batch_size: int) -> Iterator[list[int]]:
    """Indices of `features` in batches of similar length, the longest first (so that memory runs out at once)."""
    order = sorted(range(len(features)), key=lambda index: -longest(features[index]))
    for start in range(0, len(order), at_least_one(batch_size)):
        yield order[start : start + batch_size]


def at_least_one(batch_size: int) -> int:
    """The batch size, where it is one; else a ConfigError."""
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
    return batch_size


def _a_row_each(logits: torch.Tensor, features: Sequence[Feature]) -> torch.Tensor:
    """`[1, N, C]` of a packed row as `[B, T, C]`; of padded rows, as they are."""
    from torch.nn.utils.rnn import pad_sequence

    if len(logits) == len(features):
        return logits
    parts = logits[0].split([len(feature["input_ids"]) for feature in features])
    return pad_sequence(list(parts), batch_first=True)


def batch_logits(
    model: PreTrainedModel, features: Sequence[Feature], collate: Any, batch_size: int,
    aligned: Callable[[Batch], dict[str, Any]] = dict,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:  # fmt: skip
    """For each batch: the indices of its rows, its logits and its labels. The model is put back as it was.

    Args:
        collate: makes a batch of features.
        aligned: brings the labels to where the logits are, and asks for no other logits (`Layout.aligned`).
    """
    import torch

    from prefixtune.packing import declare

    training = model.training
    model.eval()
    try:
        for rows in batches_by_length(features, batch_size):
            batch = aligned(collate([features[row] for row in rows]))
            batch = {key: value.to(model.device) for key, value in batch.items()}
            labels = batch.pop("labels")
            with torch.no_grad(), declare():
                logits = model(**batch).logits
            yield rows, logits, labels
    finally:
        model.train(training)


def tell_of_cuts(name: str, lengths: Sequence[int], limit: int | None) -> None:
    """A warning, once for each file, when inputs fill all the tokens there is room for: what was longer was cut."""
    full = sum(length >= limit for length in lengths) if limit is not None else 0
    if full:
        tell_once(f"{name}: {full} of {len(lengths)} inputs reach the limit of {limit} tokens and may have been cut")


@functools.cache
def tell_once(message: str) -> None:
    """A warning, the first time that it is given."""
    logging.getLogger("prefixtune").warning(message)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed cross-entropy and the number of labels that count.

    Args:
        logits: `[B, T, V]`, or `[B, C]` with one label a row.
        labels: `[B, T]` or `[B]`, `IGNORED` where nothing is to be predicted.
    """
    import torch.nn.functional as F

    labels = labels.to(logits.device)
    flat = logits.reshape(-1, logits.shape[-1]).float()
    total = F.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")
    return total, labels.ne(IGNORED).sum()
