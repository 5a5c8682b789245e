"""What frozen layers below the lowest prefix make of an example is the same in every epoch: computed once and kept.

Under `layers=` (or lengths that begin with zeros) every layer before the first one with a prefix is the base model, and
with its dropout off the hidden state that enters that first layer is a function of the example alone. It is computed
for all examples before the first step, in batches that depend on the data alone, so a run that is resumed trains on the
same numbers. After that those layers hand on what they are given, and the kept states enter behind them.

Nothing is taken for granted of a model's file: forwards of the very model with and without this must agree first.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefixtune.bank import Bank, bank_of, names_in
from prefixtune.errors import PrefixtuneError, first_line
from prefixtune.geometry import Layer
from prefixtune.layout import Batch, Layout
from prefixtune.packing import declare
from prefixtune.tasks.task import IGNORED, Feature, batches_by_length, texts_of
from prefixtune.tiny_input import FAILURES, is_encoder_decoder, quiet_evaluation
from prefixtune.training.config import ACTIVATION_CACHE
from prefixtune.training.cut import Cut

EXAMPLES = "examples"
"""The key of a feature, and of a batch, that says which training example it is."""


class _Refusal(PrefixtuneError):
    """Why nothing is kept."""


class Activations:
    """The hidden state that enters the lowest prefixed layer, for every token of every example of `features`.

    Filled at the first use, in main memory.
    """

    def __init__(self, cut: Cut, layout: Layout, features: Sequence[Feature], batch_size: int) -> None:
        self.cut, self.layout, self.features, self.batch_size = cut, layout, features, batch_size
        ends = list(itertools.accumulate(_tokens(feature) for feature in features))
        self.spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self.states: Tensor | None = None  # [tokens of all examples, d]

    def numbered(self) -> list[Feature]:
        """The features, each with its number, which `collate` hands on."""
        return [{**feature, EXAMPLES: number} for number, feature in enumerate(self.features)]

    def collate(self, features: Sequence[Feature]) -> dict[str, Any]:
        """The layout's batch of numbered features, with their numbers."""
        bare = [{name: value for name, value in feature.items() if name != EXAMPLES} for feature in features]
        return {**self.layout.collate(bare), EXAMPLES: torch.tensor([feature[EXAMPLES] for feature in features])}

    @contextlib.contextmanager
    def entered(self, model: nn.Module, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`batch` without its examples' numbers, and a model that goes on from their states."""
        examples = [self.spans[number] for number in batch[EXAMPLES].tolist()]
        bare = {name: value for name, value in batch.items() if name != EXAMPLES}
        if self.states is None:
            self.states = self._filled(model)
        real = _real(bare)
        states = torch.cat([self.states[span] for span in examples]).to(real.device)
        with self.cut.entered(states, real):
            yield bare

    def _filled(self, model: nn.Module) -> Tensor:
        device = next(model.parameters()).device
        states: Tensor | None = None
        with quiet_evaluation(model):
            for rows in batches_by_length(self.features, self.batch_size):
                batch = self.layout.collate([self.features[row] for row in rows])
                found = self.entering(model, {name: value.to(device) for name, value in batch.items()}).cpu()
                if states is None:
                    states = found.new_empty(self.spans[-1].stop, found.shape[1])
                sizes = [self.spans[row].stop - self.spans[row].start for row in rows]
                for row, part in zip(rows, found.split(sizes), strict=True):
                    states[self.spans[row]] = part
        assert states is not None
        return states

    def entering(self, model: nn.Module, batch: Batch) -> Tensor:
        """The hidden state that enters the lowest prefixed layer, `[N, d]`, of the real tokens of a batch."""
        seen: list[Tensor] = []
        with self.cut.watched(seen):
            run(model, self.layout, batch)
        (hidden,) = seen
        return hidden.flatten(0, -2)[_real(batch).flatten()]


def run(model: nn.Module, layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """The logits where there are labels, as training has them, and the labels."""
    aligned = layout.aligned(batch)
    labels = aligned.pop("labels")
    with declare():
        return model(**aligned).logits, labels


def _real(batch: Batch) -> Tensor:
    """Where a batch has tokens, bool, in the shape of its input ids: everywhere in a packed row."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def _tokens(feature: Feature) -> int:
    """How many tokens an example has, over all its texts."""
    return sum(map(len, texts_of(feature)))


def keep(
    model: nn.Module, layout: Layout, features: Sequence[Feature], *, batch_size: int, passes: float,
    budget: float | None = None, checkpointing: bool = False,
) -> Activations | None:  # fmt: skip
    """What to train `model` with instead of the layers below its lowest prefix; None where there is nothing to save.

    Where there would be something to save and it cannot be, the log has one line that says why.

    Args:
        batch_size: examples that are computed at a time.
        passes: how often training goes over the features; below two, nothing is seen again.
        budget: the most main memory to take, in GiB; 0 turns it off. Default: `ACTIVATION_CACHE`.
        checkpointing: gradient checkpointing will be on, which runs layers again when the states are gone.
    """
    budget = ACTIVATION_CACHE if budget is None else budget
    if not budget or passes < 2 or not features or not isinstance(model, PreTrainedModel) or not names_in(model):
        return None
    bank = bank_of(model)
    (name,) = bank.row_names(1)
    slots = [] if name is None else list(bank.get(name).slots.values())
    if not slots or any(slot.layer.block is None or slot.layer.block[1] == 0 for slot in slots):  # the usual case
        return None
    try:
        if checkpointing:
            raise _Refusal("gradient checkpointing runs layers again in the backward")
        _refuse_too_large(model, features, bank.geometry.layers[0].hidden, budget)
        blocks, lowest = _blocks_below(model, bank, [slot.layer for slot in slots])
        cut = _proved(model, blocks, lowest, layout, features)
    except FAILURES as error:
        logging.getLogger("prefixtune").warning("layers below the prefix run in every epoch: %s", first_line(error))
        return None
    return Activations(cut, layout, features, batch_size)


def _blocks_below(model: PreTrainedModel, bank: Bank, prefixed: Sequence[Layer]) -> tuple[tuple[nn.Module, ...], int]:
    """The blocks of `model`, and which is the lowest with a prefix. Raises _Refusal when the others are needed."""
    layers, name = bank.geometry.layers, type(model).__name__
    lists = {None if layer.block is None else layer.block[0] for layer in layers}
    if is_encoder_decoder(model) or len(lists) > 1:
        raise _Refusal(f"{name} has more than one stack of layers")
    if any(layer.turn for layer in layers):
        raise _Refusal(f"the layers of {name} share weights")
    path = lists.pop()
    blocks = None if path is None else model.get_submodule(path)
    if not isinstance(blocks, nn.ModuleList):
        raise _Refusal(f"the layers of {name} are no list")
    lowest = min(layer.block[1] for layer in prefixed if layer.block is not None)
    own = {id(parameter) for parameter in bank.parameters()}
    if any(parameter.requires_grad and id(parameter) not in own for parameter in model.parameters()):
        raise _Refusal("not only the prefix is trained")
    above = {module for block in blocks[lowest:] for module in block.modules()}
    dropping = _dropping(model.get_submodule(layers[0].stack), above)
    if dropping is not None:
        raise _Refusal(f"the base model drops at random there ({dropping}); base_dropout: false turns it off")
    return tuple(blocks), lowest


def _dropping(stack: nn.Module, above: set[nn.Module]) -> str | None:
    """What drops something below the cut in training: a dropout, or a rate that a module holds, as `path.name=rate`."""
    for path, module in stack.named_modules():
        if module in above:
            continue
        rates = {key: rate for key, rate in vars(module).items() if "drop" in key or "jitter" in key}
        if isinstance(module, nn.Dropout):
            rates = {"p": module.p}
        for key, rate in rates.items():
            if isinstance(rate, float) and rate > 0:
                return f"{path}.{key}={rate}".lstrip(".")
    return None


def _refuse_too_large(model: PreTrainedModel, features: Sequence[Feature], width: int, budget: float) -> None:
    size = sum(_tokens(feature) for feature in features) * width * model.dtype.itemsize / 2**30
    if size > budget:
        raise _Refusal(f"their output takes {size:.2g} GiB, more than activation_cache={budget:g}")


def _proved(
    model: PreTrainedModel, blocks: tuple[nn.Module, ...], lowest: int, layout: Layout, features: Sequence[Feature]
) -> Cut:
    """The cut, after forwards with and without it, over a few examples. Raises _Refusal where they differ.

    The same batch must give the same bits, another batch the same up to the rounding of products of other sizes.
    """
    order = sorted(range(len(features)), key=lambda index: _tokens(features[index]))
    # The longest, too: a rotary table may depend on the longest text beside another (longrope, dynamic NTK).
    picked = dict.fromkeys((order[-1], order[len(order) // 2], order[len(order) // 4], order[0]))
    few = [features[index] for index in picked]
    widths: dict[nn.Module, int | None] = {}

    def measure(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        widths[module] = len(output) if isinstance(output, tuple) else None

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(measure).remove)
        with quiet_evaluation(model):
            run(model, layout, _on(model, layout.collate(few)))
    cut = Cut(blocks, lowest, tuple(widths[block] for block in blocks))
    trial = Activations(cut, layout, few, len(few))
    numbered = trial.numbered()
    for chosen in (numbered, numbered[::-2]):
        batch = _on(model, trial.collate(chosen))
        with quiet_evaluation(model):
            with trial.entered(model, dict(batch)) as bare:
                ours, labels = run(model, layout, bare)
            reference, _ = run(model, layout, bare)
        gap = _gap(ours, reference, labels)
        if gap > (0.0 if len(chosen) == len(few) else 1e-4 if model.dtype.itemsize > 2 else 3e-2):
            raise _Refusal(f"{type(model).__name__} computes something else without them (difference {gap:.2g})")
    with quiet_evaluation(model):
        still = trial.entering(model, bare)
    with _quiet_training(model):
        if not torch.equal(trial.entering(model, bare), still):
            raise _Refusal(f"{type(model).__name__} computes something else there while it is trained")
    return cut


def _on(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    return {name: value.to(model.device) for name, value in batch.items()}


def _gap(ours: Tensor, reference: Tensor, labels: Tensor) -> float:
    """The largest difference of logits that have a label, as a part of the largest; infinite where there are none."""
    if ours.ndim > 2 and labels.shape == ours.shape[:2]:
        ours, reference = ours[labels != IGNORED], reference[labels != IGNORED]
    if not ours.numel():
        return math.inf
    if torch.equal(ours, reference):
        return 0.0
    gap = ((ours - reference).abs().max() / reference.abs().max()).item()
    return math.inf if math.isnan(gap) else gap


@contextlib.contextmanager
def _quiet_training(model: nn.Module) -> Iterator[None]:
    """Training mode without gradients, the random state and each module's flag put back."""
    still = [module for module in model.modules() if not module.training]
    devices = [] if (device := next(model.parameters()).device).type == "cpu" else [device]
    try:
        for module in still:
            module.training = True
        with torch.random.fork_rng(devices, device_type=device.type), torch.no_grad():
            yield
    finally:
        for module in still:
            module.training = False
