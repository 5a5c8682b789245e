"""Evaluate a prefix on data, and generate with one prefix or several in one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import prefixtune as pt
from prefixtune import tasks
from prefixtune.errors import CheckpointError, ConfigError, DataError, ModelError
from prefixtune.tasks import Decoding, Table, Task, Window
from prefixtune.tasks.decoding import by_room, generate_batch, reserve, seeded
from prefixtune.tasks.loading import load_base, tokenizer_digest, window
from prefixtune.tasks.task import at_least_one, batches_by_length, check_types, tell_of_cuts
from prefixtune.tasks.text2text import Text2Text

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Loaded:
    """A base model with prefixes, ready to be evaluated.

    Args:
        tasks: the task of every prefix, by its name; None where the prefix does not say.
        metadata: what training wrote beside every prefix, by its name.
        window: what fits under every prefix.
        windows: what fits under each prefix, by its name, where they differ.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tasks: dict[str, Task | None]
    metadata: dict[str, dict[str, Any]]
    window: Window
    windows: dict[str, Window] = field(default_factory=dict)

    def window_of(self, name: str | None) -> Window:
        """What fits under the prefix `name`; the bare model reads what the first prefix reads."""
        return self.windows.get(name or next(iter(self.windows), ""), self.window)


def load(model_id: str | None, directories: Mapping[str, str], *, dtype: str = "auto") -> Loaded:
    """The base model, in the class its prefixes were trained in, with all of `{name: directory}` attached.

    Args:
        model_id: a folder or a hub id; None: the base model that the first prefix names.
        dtype: type of the base model's weights; auto: the one that training loaded it in.

    Raises:
        CheckpointError: a folder holds no prefix, or one of another base model.
        ConfigError: the prefixes need different heads, or were trained under different types of weights.
    """
    import torch

    from prefixtune.checkpoint import local_folder, read_config

    folders = {name: local_folder(directory) for name, directory in directories.items()}
    configs = {name: read_config(folder) for name, folder in folders.items()}
    metadata = {name: config.get("metadata") or {} for name, config in configs.items()}
    kinds = {name: _stored_task(data, folders[name]) for name, data in metadata.items()}
    heads = {task.kind for task in kinds.values() if task is not None}
    if len(heads) > 1:
        told = ", ".join(f"{name}: {task.kind}" for name, task in kinds.items() if task is not None)
        raise ConfigError(f"prefixes of different tasks need different model heads ({told}); load them one at a time")
    if model_id is None and not configs:
        raise ConfigError("no model given; name one with --model")
    base = next(iter(configs.values()))["base_model"]["name"] if model_id is None else model_id
    first = next((task for task in kinds.values() if task is not None), None)
    try:
        model, tokenizer = load_base(base, first, dtype=_trained_dtype(metadata) if dtype == "auto" else dtype)
    except ModelError as error:
        if model_id is not None:
            raise
        prefix = next(iter(folders.values()))
        raise ModelError(f"{error} (the base that {prefix} names; --model names another folder of it)") from error
    for name, folder in folders.items():
        _check_tokenizer(tokenizer, metadata[name], folder, base)
    torch.nn.Module.to(model, _device())
    for name, folder in folders.items():
        pt.load(model, folder, name=name)
    taken = {name: positions_taken(model, name) for name in directories}
    bounds = {name: metadata[name].get("max_length") for name in directories}
    shortest = min((bound for bound in bounds.values() if bound), default=None)
    room = window(model, tokenizer, max(taken.values(), default=0), shortest)
    rooms = {name: window(model, tokenizer, taken[name], bounds[name]) for name in directories}
    return Loaded(model, tokenizer, kinds, metadata, room, rooms)


def _stored_task(metadata: Mapping[str, Any], folder: Path) -> Task | None:
    """The task that a header names. Raises CheckpointError where what it says of training is malformed."""
    bound = metadata.get("max_length")
    if bound is not None and (not isinstance(bound, int) or isinstance(bound, bool)):
        raise CheckpointError(f"{folder}: max_length is {bound!r}, expected a whole number; restore the header")
    columns = metadata.get("columns") or {}
    if not isinstance(columns, dict) or not all(isinstance(old, str) for old in columns.values()):
        raise CheckpointError(f"{folder}: columns is {str(columns)[:60]}, expected names by names; restore the header")
    try:
        trained_decoding(metadata)
        return tasks.from_metadata(metadata["task"]) if "task" in metadata else None
    except (TypeError, KeyError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder}: its header holds a task or a decoding that this prefixtune ({pt.__version__}) does not know "
            f"({error}); restore the header, or use the prefixtune that wrote it"
        ) from error


def _check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any], folder: Path, model_id: str
) -> None:
    """Raise CheckpointError where the same text gets other tokens than in training; older prefixes do not say."""
    if metadata.get("tokenizer") not in (None, tokenizer_digest(tokenizer)):
        raise CheckpointError(
            f"{folder} was trained with another tokenizer: {model_id}'s gives a text other tokens; put back the "
            "tokenizer's files that it was trained with, or name a folder that has them with --model"
        )


def _trained_dtype(metadata: Mapping[str, Mapping[str, Any]]) -> str:
    """The type of weights that training asked for; `auto` where no prefix says. Raises ConfigError for several."""
    known = {name: str(data["dtype"]) for name, data in metadata.items() if "dtype" in data}
    if len(set(known.values())) > 1:
        told = ", ".join(f"{name}: {dtype}" for name, dtype in known.items())
        raise ConfigError(f"the prefixes were trained with base weights of different types ({told}); name one: --dtype")
    return next(iter(known.values()), "auto")


def positions_taken(model: PreTrainedModel, name: str) -> int:
    """How many of the base model's positions the prefix `name` occupies before the first real token."""
    from prefixtune.bank import bank_of

    return max(bank_of(model).get(name).offsets.values(), default=0)


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, table: Table, room: Window, *,
    batch_size: int, decoding: Decoding, answered: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Loss and, when `answered`, the task's metrics on a prepared table.

    Where the loss is no number, neither is a metric: the largest of logits that are none is the first class.
    """
    found = task.predict(model, tokenizer, table, room, batch_size=batch_size, decoding=decoding, answered=answered)
    scores = {} if found.answers is None else task.score(found.answers, table)
    return {"loss": found.loss, **(scores if math.isfinite(found.loss) else dict.fromkeys(scores, math.nan))}


def evaluate(
    loaded: Loaded, name: str, table: Table, *, batch_size: int = 32, decoding: Decoding | None = None
) -> tuple[dict[str, float], list[Any]]:
    """The metrics of the prefix `name` on `table`, and its answers: one per row, one per source for text to text.

    Raises:
        CheckpointError: the prefix does not say its task.
        ModelError: the loss is no number.
    """
    task = loaded.tasks[name]
    if task is None:
        raise CheckpointError(
            f"the prefix {name!r} does not say which task it was trained for, so it cannot be scored; "
            "train it with `prefixtune train`, or use the library's metrics on its answers"
        )
    task.check_libraries()
    prepared = task.prepared(table)
    with pt.using(loaded.model, name):
        found = task.predict(
            loaded.model, loaded.tokenizer, prepared, loaded.window_of(name), batch_size=batch_size,
            decoding=decoding or trained_decoding(loaded.metadata[name]), answered=True,
        )  # fmt: skip
    assert found.answers is not None
    if not math.isfinite(found.loss):  # then the largest of logits that are none is the first class
        raise ModelError(
            f"{table.name}: the loss under the prefix {name!r} is {found.loss}, so its answers mean nothing; expected "
            "a number: try --dtype float32, or train the prefix again with a lower learning rate"
        )
    return {"loss": found.loss, **task.score(found.answers, prepared)}, found.answers


def trained_columns(metadata: Mapping[str, Any], table: Table) -> Table:
    """The table with the columns renamed as in training, where it has the columns that training renamed.

    As in training, a renamed column goes before one that has its new name already.
    """
    stored, present = metadata.get("columns") or {}, table.columns()
    return table.renamed({new: old for new, old in stored.items() if old in present})


def trained_decoding(metadata: Mapping[str, Any], **overrides: Any) -> Decoding:
    """The decoding that training evaluated with, changed by the `overrides` that are not None."""
    known = {field.name for field in fields(Decoding)}
    stored = {key: value for key, value in metadata.get("decoding", {}).items() if key in known}
    decoding = Decoding(**stored)
    check_types(decoding)
    return replace(decoding, **{key: value for key, value in overrides.items() if value is not None})


def generate(
    loaded: Loaded, prompts: Sequence[str], names: Sequence[str | None],
    decoding: Decoding | Mapping[str | None, Decoding], batch_size: int = 32,
) -> list[dict[str | None, str]]:  # fmt: skip
    """For every prompt the answer under every one of `names` (None: the bare base model).

    All answers to a prompt come from one batch, a prefix a row, where they are written in the same way.

    Args:
        decoding: how answers are written, all of them or by the names.
    """
    import torch

    model, tokenizer = loaded.model, loaded.tokenizer
    jobs = [(row, name) for row in range(len(prompts)) for name in names]
    ways = {name: _way(loaded, name, decoding) for name in names}
    ids = [_prompt(loaded, name, prompts[row], ways[name]) for row, name in jobs]
    if empty := [row for (row, _), prompt in zip(jobs, ids, strict=True) if not prompt]:
        raise DataError(f"prompt {empty[0] + 1} is empty; expected at least one token")
    _tell_of_cut_prompts(model, jobs, ids, ways)
    answers: list[dict[str | None, str]] = [{} for _ in prompts]
    # Rows of one prompt stay together: a batch is a whole number of prompts.
    size = max(at_least_one(batch_size) // len(names), 1) * len(names)
    order = [job for batch in batches_by_length(_prompt_lengths(ids, names), 1) for job in _jobs_of(batch, names)]
    # All draw from one seed, one after another.
    with seeded(max((way.decoding for way in ways.values()), key=lambda how: how.sample)), torch.no_grad():
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            for way, same in _by_way(ways, jobs, chosen).items():
                for alike in by_room(model, way.window, way.decoding, ids, same):
                    with _using(model, [jobs[job][1] for job in alike]):
                        texts = generate_batch(
                            model, tokenizer, [ids[job] for job in alike], way.window, way.decoding, way.end
                        )
                    for job, text in zip(alike, texts, strict=True):
                        row, name = jobs[job]
                        answers[row][name] = text
    return answers


@dataclass(frozen=True)
class _Way:
    """How a prefix's answers are written, `end` the token that ends them beside the model's own."""

    window: Window
    decoding: Decoding
    end: int | None


def _way(loaded: Loaded, name: str | None, decoding: Decoding | Mapping[str | None, Decoding]) -> _Way:
    task = _text_task(loaded, name)
    how = decoding if isinstance(decoding, Decoding) else decoding[name]
    return _Way(loaded.window_of(name), how, None if task.end_token is None else task.end(loaded.tokenizer))


def _prompt(loaded: Loaded, name: str | None, text: str, way: _Way) -> list[int]:
    kept = reserve(loaded.model, way.window, way.decoding)
    return _text_task(loaded, name).prompts([text], loaded.model, loaded.tokenizer, way.window, reserved=kept)[0]


def _tell_of_cut_prompts(
    model: PreTrainedModel, jobs: Sequence[tuple[int, str | None]], ids: Sequence[list[int]],
    ways: Mapping[str | None, _Way],
) -> None:  # fmt: skip
    for name, way in ways.items():
        lengths = [len(prompt) for (_, asked), prompt in zip(jobs, ids, strict=True) if asked == name]
        tell_of_cuts("prompts", lengths, way.window.inputs(reserve(model, way.window, way.decoding)))


def _by_way(
    ways: Mapping[str | None, _Way], jobs: Sequence[tuple[int, str | None]], chosen: Sequence[int]
) -> dict[_Way, list[int]]:
    """The chosen jobs by how their answers are written: where prefixes differ in it, a batch is taken apart."""
    found: dict[_Way, list[int]] = {}
    for job in chosen:
        found.setdefault(ways[jobs[job][1]], []).append(job)
    return found


def _using(model: PreTrainedModel, names: Sequence[str | None]) -> AbstractContextManager[None]:
    """A prefix a row; a model that no prefix was ever attached to has none to choose from."""
    return pt.using(model, names) if pt.prefixes(model) else nullcontext()


def _prompt_lengths(ids: Sequence[list[int]], names: Sequence[str | None]) -> list[dict[str, list[int]]]:
    return [{"input_ids": ids[start]} for start in range(0, len(ids), len(names))]


def _jobs_of(rows: Sequence[int], names: Sequence[str | None]) -> list[int]:
    return [row * len(names) + position for row in rows for position in range(len(names))]


def _text_task(loaded: Loaded, name: str | None) -> Text2Text:
    """How prompts for a prefix are written; the bare model gets them as the first prefix does."""
    known = [task for task in loaded.tasks.values() if task is not None]
    task = loaded.tasks[name] if name is not None else next(iter(known), None)
    if task is None:
        return Text2Text(separator="")  # trained outside the command line: the prompt as it is
    if not isinstance(task, Text2Text):
        raise ConfigError(f"the prefix {name!r} was trained for {task.kind}, which generates nothing; use evaluate")
    return task


def _device() -> str:
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type
