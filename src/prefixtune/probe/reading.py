"""Read the gates of a trained APT prefix over data: overall, and by label or by example.

An average counts every example once, as the mean of `pt.gates` over examples does: long texts speak no louder than
short ones, and how the data are cut into batches changes nothing. Only the tags of words average over words.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

import prefixtune as pt
from prefixtune.attention import AttentionCall
from prefixtune.bank import bank_of
from prefixtune.errors import ConfigError, near_miss
from prefixtune.evaluation import Loaded
from prefixtune.geometry import SITES
from prefixtune.methods.adaptive import AdaptivePrefix
from prefixtune.prefix import Prefix, Slot
from prefixtune.tasks import Table, Task
from prefixtune.tasks.classification import Classification
from prefixtune.tasks.spans import Spans
from prefixtune.tasks.tagging import OUTSIDE, Tagging
from prefixtune.tasks.task import IGNORED, Feature, batches_by_length

BY = ("label", "example")
OVERALL = "(all)"
"""The name of the group of all examples; brackets, because `all` may be a label."""


@dataclass(frozen=True)
class SiteGates:
    """The mean gates of one site.

    Args:
        layers: the site's layers that have a prefix, counted from 0.
        lengths: their prefix lengths.
        layer_gate: lambda of each, `[L]`; 1 where the method has no layer gate.
        gate: lambda times the mean of alpha, `[L, P]` in float64; NaN past a layer's length.
    """

    layers: tuple[int, ...]
    lengths: tuple[int, ...]
    layer_gate: Tensor
    gate: Tensor

    def alpha(self) -> Tensor:
        """The mean token gate, `[L, P]`; NaN in a layer whose lambda is exactly 0, where it cannot be seen."""
        factor = self.layer_gate[:, None]
        return torch.where(factor == 0, torch.nan, self.gate / factor)

    def by_layer(self) -> Tensor:
        """The mean gate of each layer, `[L]`."""
        return self.gate.nanmean(1)

    def openness(self) -> Tensor:
        """How many open positions each layer has in sum, `[L]`; a negative gate opens as far as a positive one."""
        return torch.stack([row[:length].abs().sum() for row, length in zip(self.gate, self.lengths, strict=True)])


@dataclass(frozen=True)
class Group:
    """Mean gates by site over `count` examples or words (`unit`)."""

    name: str
    count: int
    unit: str
    sites: dict[str, SiteGates]


@dataclass(frozen=True)
class Reading:
    """What the gates did on the data.

    Args:
        overall: over all examples.
        by: what `groups` are: None, 'label' or 'example'.
        groups: one group a label (in the task's order) or example (in the order of the data).
    """

    overall: Group
    by: str | None
    groups: list[Group]


def read_gates(loaded: Loaded, name: str, table: Table, *, by: str | None = None, batch_size: int = 32) -> Reading:
    """The gates of the prefix `name` on the prepared `table`.

    `by='label'` groups a classification's examples by their gold label, and a tagging's words by the entity type of
    their gold tag; `by='example'` keeps every example apart.

    Raises:
        ConfigError: the prefix has no gates, or none that could differ between the groups.
    """
    task, model = loaded.tasks[name], loaded.model
    prefix = bank_of(model).get(name)
    assert task is not None
    check(prefix, task, by)
    features = task.features(table, model, loaded.tokenizer, loaded.window_of(name))
    collate = task.collator(model, loaded.tokenizer)
    tags = _TagSums(task) if by == "label" and isinstance(task, Tagging) else None
    keys = _keys(table, by) if tags is None else [None] * len(table)
    everything, sums = _Sum(), {key: _Sum() for key in keys if key is not None}
    with pt.using(model, name):
        for rows in batches_by_length(features, batch_size):
            inputs, labels = _inputs(model, collate, [features[row] for row in rows])
            found = _gates(model, inputs, len(rows)) if tags is None else tags.gates(model, inputs, labels)
            for place, row in enumerate(rows):
                for total in (everything, *([sums[key]] if (key := keys[row]) is not None else [])):
                    total.add({site: gate[place] for site, gate in found.items()})
    groups = tags.groups(prefix) if tags is not None else _groups(sums, task, prefix)
    return Reading(_group(OVERALL, everything, "examples", prefix), by, groups)


def has_gates(prefix: Prefix) -> bool:
    """Whether there is anything to read."""
    method = prefix.method
    return isinstance(method, AdaptivePrefix) and (method.token_gate or method.layer_gate)


def check(prefix: Prefix, task: Task, by: str | None) -> None:
    """Raise ConfigError when there is nothing to read, or nothing that differs from group to group."""
    method = prefix.method
    if not isinstance(method, AdaptivePrefix):
        raise ConfigError(
            f"the prefix is of the method {method.name()!r}; probe reads the gates of a prefix trained with "
            "--method adaptive (a report without gates: prefixtune evaluate --report FILE)"
        )
    if not has_gates(prefix):
        raise ConfigError("the prefix was trained with neither a token gate nor a layer gate; there is nothing to read")
    if by is None:
        return
    if by not in BY:
        raise ConfigError(f"--by {by!r} is unknown{near_miss(by, BY)}")
    if not method.token_gate or method.gate_input == "none":
        why = "token_gate=False" if not method.token_gate else "gate_input='none'"
        raise ConfigError(f"--by {by}: with {why} the gates read no input and are the same everywhere; leave --by out")
    if by == "label" and isinstance(task, Tagging) and method.gate_input != "token":
        raise ConfigError(
            f"--by label: with gate_input={method.gate_input!r} all words of an example share one gate, so tags cannot "
            "be told apart; use --by example, or a prefix of gate_input='token'"
        )
    if by == "label" and not isinstance(task, Classification | Spans | Tagging):
        raise ConfigError(f"--by label: {task.kind} has no labels; use --by example")


def _keys(table: Table, by: str | None) -> Sequence[str | None]:
    """The group of every row."""
    if by == "label":
        return [row["label"] for row in table.rows]
    if by is None:
        return [None] * len(table)
    # A source with several targets is one line of the file and several examples.
    seen: Counter[int] = Counter()
    keys: list[str | None] = []
    for line in table.lines:
        seen[line] += 1
        keys.append(f"line {line}" + (f" ({seen[line]})" if seen[line] > 1 else ""))
    return keys


def _inputs(model: PreTrainedModel, collate: Any, features: Sequence[Feature]) -> tuple[dict[str, Tensor], Tensor]:
    """One padded batch, and its labels. A decoder that writes for an encoder is told where its text ends, too."""
    batch = {key: value.to(model.device) for key, value in collate(features).items()}
    labels = batch.pop("labels")
    if "decoder_input_ids" in batch and "decoder_attention_mask" in inspect.signature(model.forward).parameters:
        batch["decoder_attention_mask"] = labels.ne(IGNORED).long()  # label t is predicted at decoder position t
    return batch, labels


def _gates(model: PreTrainedModel, inputs: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """`pt.gates`, in float64 on the CPU; of an example that is several texts (choices), their mean."""
    found = pt.gates(model, **inputs)
    return {site: gate.double().cpu().unflatten(0, (rows, -1)).mean(1) for site, gate in found.items()}


@dataclass
class _Sum:
    """Gates by site, added up."""

    count: int = 0
    sites: dict[str, Tensor] = field(default_factory=dict)

    def add(self, gates: dict[str, Tensor], count: int = 1) -> None:
        self.count += count
        for site, gate in gates.items():
            self.sites[site] = self.sites[site] + gate if site in self.sites else gate.clone()


class _TagSums:
    """The gates of words, added up by the entity type of their gold tag."""

    def __init__(self, task: Tagging) -> None:
        kinds = [_entity(label, task) for label in task.labels]
        self.kinds = sorted(set(kinds), key=lambda kind: (kind == OUTSIDE, kind))
        self.number = torch.tensor([self.kinds.index(kind) for kind in kinds])
        self.counts = torch.zeros(len(self.kinds), dtype=torch.float64)
        self.sums: dict[str, Tensor] = {}  # by slot, [K, P]
        self._chosen = torch.empty(0)  # [K, B, T]: which words of the batch are of which type

    def gates(self, model: PreTrainedModel, inputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """`pt.gates` of a batch with the labels `[B, T]`, whose words are counted on the way."""
        kind = torch.where(labels == IGNORED, -1, self.number.to(labels.device)[labels.clamp(min=0)])
        self._chosen = torch.stack([kind == number for number in range(len(self.kinds))]).double().cpu()
        self.counts += self._chosen.sum((1, 2))
        with bank_of(model).watched(self._watch):
            return _gates(model, inputs, len(labels))

    def _watch(self, prefix: Prefix, slot: Slot, call: AttentionCall) -> None:
        gate = prefix.gate(call, slot)
        assert gate is not None
        found = torch.einsum("kbt,btp->kp", self._chosen, gate.double().cpu())
        self.sums[slot.key] = self.sums.get(slot.key, 0) + found

    def groups(self, prefix: Prefix) -> list[Group]:
        """One group for every type that occurs."""
        groups = []
        for number, kind in enumerate(self.kinds):
            if count := int(self.counts[number]):
                sums = {key: found[number] for key, found in self.sums.items()}
                sites = {site: _stacked([sums[slot.key] for slot in slots]) for site, slots in by_site(prefix).items()}
                groups.append(_group(kind, _Sum(count, sites), "words", prefix))
        return groups


def _entity(label: str, task: Tagging) -> str:
    """`B-LOC` and `I-LOC` are both `LOC`; a plain tag is itself."""
    return label if task.scheme == "none" or label == OUTSIDE else label.partition("-")[2]


def _groups(sums: dict[str, _Sum], task: Task, prefix: Prefix) -> list[Group]:
    """Labels in the order of the task, examples in that of the data."""
    order = task.labels if isinstance(task, Classification | Spans) and set(sums) <= set(task.labels) else tuple(sums)
    return [_group(name, sums[name], "examples", prefix) for name in order if name in sums]


def by_site(prefix: Prefix) -> dict[str, list[Slot]]:
    """The slots of each site in the order of their layers, as `pt.gates` stacks them."""
    sites: dict[str, list[Slot]] = {}
    for slot in sorted(prefix.slots.values(), key=lambda slot: slot.layer.index):
        sites.setdefault(slot.layer.site, []).append(slot)
    return {site: sites[site] for site in SITES if site in sites}


def _group(name: str, total: _Sum, unit: str, prefix: Prefix) -> Group:
    folded = prefix.fold()
    sites = {}
    for site, slots in by_site(prefix).items():
        layer_gate = [float(folded.get(f"{slot.key}.layer_gate", torch.tensor(1.0))) for slot in slots]
        sites[site] = SiteGates(
            layers=tuple(slot.layer.index for slot in slots),
            lengths=tuple(slot.length for slot in slots),
            layer_gate=torch.tensor(layer_gate, dtype=torch.float64),
            gate=total.sites[site] / total.count,
        )
    return Group(name, total.count, unit, sites)


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """Layers of `[P_l]` as one `[L, P]`, short ones filled with NaN."""
    return pad_sequence(list(layers), batch_first=True, padding_value=float("nan"))
