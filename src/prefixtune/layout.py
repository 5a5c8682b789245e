"""How examples are laid out in a batch: packed where that is proved, padded elsewhere; logits where a label is.

Packing and leaving out logits change no loss. Both depend on what a model's own file does with positions, masks and
`logits_to_keep`, so neither is taken for granted: tiny forwards of the very model compare both ways first.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from prefixtune import packing
from prefixtune.bank import bank_of, names_in
from prefixtune.errors import ConfigError, Unsuited, first_line, near_miss
from prefixtune.packing import IGNORED
from prefixtune.positions import first_position, learned_positions
from prefixtune.tiny_input import FAILURES, is_encoder_decoder, quiet_evaluation, tiny_inputs

PACKING = ("auto", "always", "never")

Batch = Mapping[str, Any]
Collate = Callable[[list[Any]], dict[str, Any]]

_proved: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()  # by prefix, or by bank for the bare model


@dataclass(frozen=True)
class Layout:
    """What makes a batch of a list of features, and brings its labels to where their logits are.

    Args:
        collate: pads or packs.
        shifted: the logits at position t predict the label at t + 1.
        picks: the model computes the logits of chosen positions alone.
    """

    collate: Collate
    shifted: bool
    picks: bool

    def aligned(self, batch: Batch) -> dict[str, Any]:
        """The batch with labels `[B, K]`, one for each of the logits `[B, K, V]` that the model then gives.

        Of padded rows, logits are computed where any row has a label; of a packed row, nowhere else at all.
        """
        labels = batch["labels"]
        if labels.ndim < 2:  # one label a row
            return dict(batch)
        if self.shifted:
            labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        if not self.picks:
            return {**batch, "labels": labels}
        kept = labels.ne(IGNORED).any(0).nonzero()[:, 0]
        return {**batch, "labels": labels[:, kept], "logits_to_keep": kept}


def choose(model: nn.Module, pad: Collate, pack: Collate | None, *, shifted: bool, wanted: str = "auto") -> Layout:
    """The layout for batches of `model`.

    Args:
        pad: what pads a list of features.
        pack: what packs it; None where a task's labels do not stand at tokens of their own.
        wanted: 'auto' packs where a forward proves it right, 'always' raises where it does not, 'never' pads.

    Raises:
        ConfigError: `wanted` is 'always', and packing is not possible.
    """
    if wanted not in PACKING:
        raise ConfigError(f"unknown packing {wanted!r}{near_miss(wanted, PACKING)}")
    reason = "this task's labels do not stand at tokens of one row" if pack is None else None
    if pack is not None and wanted != "never":
        reason = refusal(model)
    if reason is not None and wanted == "always":
        raise Unsuited(f"packing='always': {reason}; expected packing='auto' or 'never', which pad")
    packs = pack is not None and reason is None and wanted != "never"
    return Layout(pack if packs and pack is not None else pad, shifted, picks_logits(model))


def examples(batch: Batch) -> int:
    """How many examples a batch holds, padded or packed."""
    if "position_ids" in batch:
        return int(packing.starts_of(batch["position_ids"]).sum())
    return len(batch["labels"])


def refusal(model: nn.Module) -> str | None:
    """Why examples must not share a row of `model`; None when they may, proved by forwards under the prefix in use.

    Three examples (and one longer than a short sliding window, and, where positions are a table of at most 1024, so
    many that the row is longer than the table) are run packed and one by one.
    """
    if not isinstance(model, PreTrainedModel) or not names_in(model):
        return "without a prefix, the attention of a packed row is quadratic in the whole row"
    if is_encoder_decoder(model):
        return f"{type(model).__name__} is an encoder-decoder, which has two texts an example"
    bank = bank_of(model)
    (name,) = bank.row_names(1)
    used = bank if name is None else bank.get(name)
    if used not in _proved:
        _proved[used] = _tried(model)
        if _proved[used] is not None:
            logging.getLogger("prefixtune").warning("batches are padded, not packed: %s", _proved[used])
    return _proved[used]


def _tried(model: PreTrainedModel) -> str | None:
    try:
        return _difference(model)
    except FAILURES as error:
        return f"{type(model).__name__} does not run on a packed row ({type(error).__name__}: {first_line(error)})"


def _difference(model: PreTrainedModel) -> str | None:
    texts = _texts(model)
    features = [{"input_ids": text, "labels": text} for text in texts]
    row = packing.pack(features, first=first_position(model), shifted=False)
    del row["labels"]
    with quiet_evaluation(model):
        together = _states(model, row)
        for place, text in enumerate(texts[:4]):
            ids = torch.tensor([text])
            alone = _states(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            start = sum(len(before) for before in texts[:place])
            for packed, reference in zip(together, alone, strict=True):
                gap = _gap(packed[:, start : start + len(text)], reference)
                if gap is not None:
                    return f"{type(model).__name__} computes something else in a packed row ({gap})"
    return None


def _texts(model: PreTrainedModel) -> list[list[int]]:
    """Token ids of the examples, from a random state of their own; no padding, which some models count by its id."""
    bank, config = bank_of(model), model.config.get_text_config()
    windows = {layer.window for layer in bank.geometry.layers if layer.window is not None}
    lengths = [5, 9, 2, *(window + 3 for window in windows if window <= 64)]
    table = learned_positions(model)
    if table is not None and table <= 1024:
        lengths += [min(32, table // 4)] * (4 * max(table // 128, 1) + 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size - 1, (sum(lengths),), generator=generator)
    if config.pad_token_id is not None:
        ids += ids >= config.pad_token_id
    return [part.tolist() for part in ids.split(lengths)]


def _states(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The last hidden states and the logits."""
    given = {name: value.to(model.device) for name, value in inputs.items()}
    with packing.declare():
        output = model(**given, output_hidden_states=True)
    return [output.hidden_states[-1], output.logits]


def _gap(ours: Tensor, reference: Tensor) -> str | None:
    """What is wrong with `ours`; None where it is the reference up to rounding."""
    if ours.shape != reference.shape:
        return f"shape {tuple(ours.shape)}, one by one {tuple(reference.shape)}"
    tolerance = 1e-3 if ours.dtype in (torch.float32, torch.float64) else 3e-2
    gap, most = (ours - reference).abs().max().item(), reference.abs().max().item()
    return None if gap <= tolerance * max(most, 1e-6) else f"largest difference {gap:.2g}, largest value {most:.2g}"


def picks_logits(model: nn.Module) -> bool:
    """Whether `model`, asked by `logits_to_keep`, gives the logits of chosen positions alone; a forward proves it."""
    if not isinstance(model, PreTrainedModel) or model.main_input_name != "input_ids":
        return False
    if "logits_to_keep" not in inspect.signature(type(model).forward).parameters:
        return False
    inputs, kept = tiny_inputs(model, 5), torch.tensor([1, 3], device=model.device)
    with quiet_evaluation(model):
        return _gap(model(**inputs, logits_to_keep=kept).logits, model(**inputs).logits[:, kept]) is None
