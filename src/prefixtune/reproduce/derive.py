"""Runs that read other runs: lengths from learned gates, and several prefixes as one predictor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

import prefixtune as pt
from prefixtune import evaluation
from prefixtune.bank import bank_of, base_size
from prefixtune.errors import ConfigError
from prefixtune.evaluation import Loaded
from prefixtune.probe import lengths, reading
from prefixtune.reproduce.plan import adaptation
from prefixtune.tasks import Decoding, Table
from prefixtune.tasks.decoding import NEUTRAL, answered, by_room, ends, most_new_tokens, reserve
from prefixtune.tasks.task import batches_by_length
from prefixtune.tasks.text2text import Text2Text, grouped
from prefixtune.training.adaptation import Adaptation

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "default"
_READ = 512
"""The most training examples that gates are averaged over."""

Answers = dict[str, list[str]]
"""By test, one answer a source."""


def variable(model: str, folder: Path, train: Table, ratio: float, options: Mapping[str, Any]) -> Adaptation:
    """P-Tuning v2 with the lengths that the gates of the prefix in `folder` ask for, over its training examples."""
    loaded = evaluation.load(model, {_NAME: str(folder)}, dtype="auto")
    some = Table(train.name, train.rows[:_READ], train.lines[:_READ])
    gates = reading.read_gates(loaded, _NAME, some).overall
    found = lengths.variable_prefix(gates, bank_of(loaded.model).geometry, ratio)
    shape = {"lengths": found.lengths, "sites": list(found.lengths)}
    return adaptation(lengths.METHOD, {**options, **shape})


def ensemble(model: str, folders: Sequence[Path], tests: Mapping[str, Table]) -> tuple[dict[str, Any], Answers]:
    """What the prefixes in `folders` answer to `tests` together, and the rest of a run's metrics but the scores."""
    begun = time.monotonic()
    names = [f"member-{number}" for number in range(len(folders))]
    loaded = evaluation.load(model, dict(zip(names, map(str, folders), strict=True)), dtype="auto")
    decoding = evaluation.trained_decoding(loaded.metadata[names[0]])
    answers = {name: _answers(loaded, names, table, decoding) for name, table in tests.items()}
    stored = sum(bank_of(loaded.model).get(name).stored_parameters() for name in names)
    base = base_size(loaded.model)
    sizes = {"base": base, "trained": 0, "stored": stored, "stored_percent": 100 * stored / base}
    return {"seconds": round(time.monotonic() - begun, 1), "parameters": sizes}, answers


def _answers(loaded: Loaded, names: Sequence[str], table: Table, decoding: Decoding) -> list[str]:
    task = loaded.tasks[names[0]]
    if not isinstance(task, Text2Text):
        raise ConfigError(f"an ensemble generates text; expected text2text, not {task.kind if task else 'no task'}")
    keep = reserve(loaded.model, loaded.window, decoding)
    prompts = task.prompts(list(grouped(table)), loaded.model, loaded.tokenizer, loaded.window, reserved=keep)
    return generate(loaded, names, prompts, decoding, end=task.end(loaded.tokenizer))


def generate(
    loaded: Loaded, names: Sequence[str], prompts: Sequence[list[int]], decoding: Decoding, batch_size: int = 32,
    end: int | None = None,
) -> list[str]:  # fmt: skip
    """One greedy answer a prompt by the mean of the logits under the prefixes `names`.

    A batch holds every prompt once under each prefix; after each step all its rows get the mean, and so the same token.

    Raises ConfigError for anything but greedy decoding.
    """
    if decoding.beams != 1 or decoding.sample:
        raise ConfigError("an ensemble decodes greedily: its rows must agree on every token; expected one beam")
    model: Any = loaded.model
    tokenizer, E = loaded.tokenizer, len(names)
    answers = [""] * len(prompts)
    batches = batches_by_length([{"input_ids": prompt} for prompt in prompts], max(batch_size // E, 1))
    for rows in (rows for batch in batches for rows in by_room(model, loaded.window, decoding, prompts, batch)):
        left = not model.config.is_encoder_decoder
        texts = [{"input_ids": prompts[row]} for row in rows for _ in names]
        padded = tokenizer.pad(texts, padding_side="left" if left else "right", return_tensors="pt").to(model.device)
        width = padded["input_ids"].shape[1] if left else 0
        most = most_new_tokens(model, loaded.window, decoding, width)
        with torch.no_grad(), pt.using(model, [*names] * len(rows)):
            out = model.generate(
                input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], max_new_tokens=most,
                **NEUTRAL, num_beams=1, do_sample=False, logits_processor=LogitsProcessorList([MeanOfRows(E)]),
                pad_token_id=tokenizer.pad_token_id, eos_token_id=ends(model, tokenizer, end) or None,
            )  # fmt: skip
        told = tokenizer.batch_decode(answered(out[::E], width, end), skip_special_tokens=True)
        for row, text in zip(rows, told, strict=True):
            answers[row] = text.strip()
    return answers


class MeanOfRows(LogitsProcessor):
    """Every E rows that stand together get the mean of their logits."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores `[B * E, V]`."""
        mean = scores.unflatten(0, (-1, self.rows)).mean(dim=1)
        return mean.repeat_interleave(self.rows, dim=0)
