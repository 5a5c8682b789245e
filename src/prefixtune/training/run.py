"""One training run from its configuration to its result folder."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixtune import corpora
from prefixtune.checkpoint import write_whole
from prefixtune.errors import ConfigError, near_miss
from prefixtune.tasks import Task
from prefixtune.tasks.loading import check_tokens, tokenizer_digest
from prefixtune.tasks.task import longest
from prefixtune.training import curves, results
from prefixtune.training.adaptation import Adaptation, Prefixed
from prefixtune.training.bench import Bench, Data, read_data, set_up
from prefixtune.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from prefixtune.prefix import Method
    from prefixtune.tasks.task import Feature
    from prefixtune.training.trainer import PrefixTrainer


class Diverged(ConfigError):
    """The loss or the metric of a run is no number any more."""

    def __init__(self) -> None:
        super().__init__(
            "training diverged: the prefix or its metric is NaN or infinite; lower --lr or --clip, and use "
            "another --output folder"
        )


def train(config: RunConfig, method: Method, *, resume: bool = False, command: Sequence[str] = ()) -> dict[str, Any]:
    """Train a prefix and fill `config.output`; the same numbers come out whether or not the run was killed between.

    Args:
        config: what to train on and how.
        method: the prefix.
        resume: go on with the run that `config.output` holds, or start it where there is none.
        command: the command line, for the record.

    Returns:
        What `metrics.json` holds.

    Raises:
        ConfigError, DataError, ModelError, CheckpointError: before anything is written, each in one line.
    """
    results.open_folder(Path(config.output), resume=resume)  # before the data are read, which can take long
    task, data = read_data(config)
    found = fit(config, Prefixed(method, config.name), task, data, resume=resume, command=command)
    if not (Path(config.output) / results.PLOT).is_file():
        _draw(config, found["chosen_by"])
    return found


def _draw(config: RunConfig, chosen_by: str | None) -> None:
    """The curves of a finished run; one line without matplotlib."""
    output = Path(config.output)
    try:
        drawn = curves.history_png(results.read_history(output), chosen_by, sentence_sum=config.loss == "sentence_sum")
    except ConfigError as error:
        print(f"no plot: {error}", file=sys.stderr)
        return
    if drawn is not None:
        write_whole({output / results.PLOT: drawn})


def fit(
    config: RunConfig, adaptation: Adaptation, task: Task, data: Data, *, resume: bool = False,
    command: Sequence[str] = (), origin: str = results.RERUN, bar: TrainerCallback | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train any adaptation on data that were read already, as `train` does, but draw no curves.

    `config`'s file names are for the record.

    Args:
        origin: the first line of `run.yaml`, which says how to run this again.
        bar: shows the steps, in the place of Trainer's own lines.
    """
    output = Path(config.output)
    results.open_folder(output, resume=resume)
    if data.eval is not None or data.test is not None or data.tests:
        task.check_libraries()
    metric = chosen_metric(config, task)
    settings, base = {**config.settings(), **adaptation.options()}, results.base_digest(config.model)
    if (output / results.RUN).is_file():
        results.check_same_run(output, settings, data.facts, base)
    if results.is_finished(output):
        print(f"the run in {output} is finished; nothing to resume", file=sys.stderr)
        return results.read_metrics(output)

    from prefixtune.training.trainer import build_trainer

    bench = set_up(config, adaptation, task, data)
    scored = [table for table in (data.eval, data.test, *data.tests.values()) if table is not None]
    features = [bench.task.features(table, bench.model, bench.tokenizer, bench.room) for table in scored]
    for one in features:  # what cannot be scored is told now, and not when it is
        check_tokens(one, bench.model, bench.tokenizer)
    trainer = build_trainer(config, bench, metric)
    if bar is not None:
        _show_in(trainer, bar)
    facts = {
        "method": adaptation.kind(), "device": str(trainer.args.device), "parameters": _parameters(bench), "base": base,
        "room": _room(bench, [feature for one in features for feature in one]), "base_dtype": _dtype(bench.model),
    }  # fmt: skip
    with results.alone(output / results.RECORD):
        if results.is_finished(output):  # by another process, since it was asked above
            return results.read_metrics(output)
        results.record_run(output, settings, data.facts, command or sys.argv, facts, origin)
        checkpoint = results.last_checkpoint(output)
        begun = time.monotonic()
        trainer.train_from(checkpoint)
        seconds = time.monotonic() - begun
        return _finish(config, adaptation, bench, trainer, metric, seconds)


def _show_in(trainer: PrefixTrainer, bar: TrainerCallback) -> None:
    from transformers import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(bar)


def chosen_metric(config: RunConfig, task: Task) -> str | None:
    """The metric that chooses the best checkpoint; None without development data."""
    if config.eval is None:
        return None
    known = ("loss", *task.metrics)
    metric = config.metric or task.chooses
    if metric not in known:
        raise ConfigError(f"unknown metric {metric!r} for {task.kind}{near_miss(metric, known)}")
    return metric


def _finish(
    config: RunConfig, adaptation: Adaptation, bench: Bench, trainer: PrefixTrainer, metric: str | None, seconds: float
) -> dict[str, Any]:
    """Score the best checkpoint, write what is kept and the metrics, and remove what is no longer needed."""
    output, state, data = Path(config.output), trainer.state, bench.data
    _refuse_divergence(bench.model, state.best_global_step, metric)
    trainer.accelerator.unwrap_model(bench.model, keep_fp32_wrapper=False)  # scored as it will be used: no autocast
    scores: dict[str, Any] = {
        role: bench.measure(table) for role, table in (("eval", data.eval), ("test", data.test)) if table is not None
    }
    if not all(math.isfinite(found["loss"]) for found in scores.values()):
        raise Diverged
    if data.tests:
        answers = bench.answers()
        results.write_answers(output, answers)  # before they are scored, which may fail
        scores["tests"] = data.scores(bench.task, answers)  # no loss: it takes a pass more
    found = {
        **scores,
        "chosen_by": metric,
        "best_step": state.best_global_step if metric else state.global_step,
        "steps": state.global_step,
        "seconds": round(seconds, 1),
    }
    metadata = {
        "task": bench.task.metadata(),
        "decoding": vars(bench.decoding),
        "dtype": config.dtype,
        "max_length": config.max_length,
        "columns": config.columns or {},
        "tokenizer": tokenizer_digest(bench.tokenizer),
        "metrics": found,
    }
    if corpora.is_part(config.train):
        metadata["corpus"] = config.train.partition(":")[0]
    stored = adaptation.save(bench.model, output, metadata)
    parameters = {**_parameters(bench), "stored": stored}
    found["parameters"] = {**parameters, "stored_percent": 100 * stored / parameters["base"]}
    results.write_history(output, state.log_history)
    results.write_json(output / results.METRICS, found)  # last: it says that the run is finished
    if not config.keep_checkpoints:
        shutil.rmtree(output / results.CHECKPOINTS, ignore_errors=True)
    return found


def _refuse_divergence(model: PreTrainedModel, best_step: int | None, metric: str | None) -> None:
    finite = all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad)
    if not finite or (metric is not None and best_step is None):
        raise Diverged


def _dtype(model: PreTrainedModel) -> str:
    """The type of most of its numbers: what is trained beside 16 bits is in float32."""
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return sizes.most_common(1)[0][0]


def _room(bench: Bench, features: Sequence[Feature]) -> dict[str, int | None]:
    """How many tokens fit beside what is trained, and how many of the scored inputs fill that and may be cut."""
    limit = bench.room.positions
    filled = sum(longest(feature) >= limit for feature in features) if limit else 0
    return {"positions": limit, "inputs": len(features), "filled": filled}


def _parameters(bench: Bench) -> dict[str, int]:
    trained = sum(p.numel() for p in bench.model.parameters() if p.requires_grad)
    return {"base": bench.base_size, "trained": trained}
