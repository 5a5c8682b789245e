"""One training run from its configuration to its result folder."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prefixtune as pt
from prefixtune import tasks
from prefixtune.errors import ConfigError, near_miss
from prefixtune.evaluation import measure, positions_taken
from prefixtune.tasks import Decoding, Table, Task, Window
from prefixtune.tasks.loading import load_base, window
from prefixtune.training import results
from prefixtune.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefixtune.prefix import Method
    from prefixtune.training.trainer import PrefixTrainer


@dataclass(frozen=True)
class Data:
    """The prepared tables of a run; development and test data are optional."""

    train: Table
    eval: Table | None
    test: Table | None


@dataclass(frozen=True)
class Bench:
    """What a run works with once everything is loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    data: Data
    room: Window
    decoding: Decoding


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
    output = Path(config.output)
    results.open_folder(output, resume=resume)
    task, data = read_data(config)
    if data.eval is not None or data.test is not None:
        task.check_libraries()
    metric = chosen_metric(config, task)
    settings = {**config.settings(), **method.options()}
    digests = _digests(config, data)
    if (output / results.RUN).is_file():
        results.check_same_run(output, settings, digests)
    if results.is_finished(output):
        print(f"the run in {output} is finished; nothing to resume", file=sys.stderr)
        return results.read_metrics(output)

    bench = _set_up(config, method, task, data)
    trainer = build_trainer(config, bench, metric)
    facts = {"method": type(method).name(), "device": str(trainer.args.device), "parameters": _parameters(bench.model)}
    results.record_run(output, settings, digests, command or sys.argv, facts)
    checkpoint = results.last_checkpoint(output)
    begun = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - begun
    return _finish(config, method, bench, trainer, metric, seconds)


def read_data(config: RunConfig) -> tuple[Task, Data]:
    """The task as the training data define it, and all tables checked against it."""
    kind = tasks.find(config.task)
    columns = tasks.check_columns(config.columns or {}, (*kind.required, *kind.optional))

    def table(given: str, split: str) -> Table:
        return tasks.read(given, split=split, subset=config.subset, form=config.data_format, columns=columns)

    train_table = table(config.train, config.train_split)
    task = kind.learn(
        train_table, separator=config.separator, max_target_length=config.max_target_length,
        tag_scheme=config.tag_scheme,
    )  # fmt: skip
    eval_table = task.prepared(table(config.eval, config.eval_split)) if config.eval else None
    test_table = task.prepared(table(config.test, config.test_split)) if config.test else None
    return task, Data(train=task.prepared(train_table), eval=eval_table, test=test_table)


def chosen_metric(config: RunConfig, task: Task) -> str | None:
    """The metric that chooses the best checkpoint; None without development data."""
    if config.eval is None:
        return None
    known = ("loss", *task.metrics)
    metric = config.metric or task.chooses
    if metric not in known:
        raise ConfigError(f"unknown metric {metric!r} for {task.kind}{near_miss(metric, known)}")
    return metric


def build_trainer(config: RunConfig, bench: Bench, metric: str | None) -> PrefixTrainer:
    """The Trainer of a run, its training checkpoints under OUTPUT/checkpoints."""
    from transformers import EarlyStoppingCallback, TrainingArguments

    from prefixtune.training.trainer import PrefixTrainer

    if "tensorboard" in config.report_to:  # beside the checkpoints, which are removed in the end
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(Path(config.output) / "tensorboard"))
    try:
        arguments = TrainingArguments(**_trainer_options(config, metric))
    except (ValueError, ImportError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    answered = metric not in (None, "loss") or bench.task.kind != "text2text"

    def judge(model: PreTrainedModel) -> dict[str, float]:
        assert bench.data.eval is not None
        return _measure(config, bench, bench.data.eval, answered=answered)

    task, model = bench.task, bench.model
    stoppers = [] if config.patience is None else [EarlyStoppingCallback(config.patience)]
    return PrefixTrainer(
        judge=judge,
        sentence_sum=config.loss == "sentence_sum",
        shifted=task.shifted(model),
        model=model,
        args=arguments,
        train_dataset=task.features(bench.data.train, model, bench.tokenizer, bench.room),
        eval_dataset=None if bench.data.eval is None else bench.data.eval.rows,
        data_collator=task.collator(model, bench.tokenizer),
        callbacks=stoppers,
    )


def _trainer_options(config: RunConfig, metric: str | None) -> dict[str, Any]:
    import torch

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
        "lr_scheduler_type": config.schedule,
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
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "label_names": ["labels"],
        **chooses,
    }


def _checkpointing(wanted: bool) -> dict[str, bool]:
    """Activation checkpointing under the name this version of transformers has for it (renamed after 5.16)."""
    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    return {"activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing": wanted}


def _set_up(config: RunConfig, method: Method, task: Task, data: Data) -> Bench:
    from transformers import set_seed

    set_seed(config.seed)  # before the new head is drawn
    model, tokenizer = load_base(config.model, task, dtype=config.dtype, dropout=config.base_dropout)
    model = pt.attach(model, method, name=config.name, tokenizer=tokenizer)
    room = window(model, tokenizer, positions_taken(model, config.name), config.max_length)
    decoding = Decoding(
        beams=config.beams, max_new_tokens=config.max_new_tokens, length_penalty=config.length_penalty
    )
    return Bench(model, tokenizer, task, data, room, decoding)


def _measure(config: RunConfig, bench: Bench, table: Table, *, answered: bool = True) -> dict[str, float]:
    return measure(
        bench.model, bench.tokenizer, bench.task, table, bench.room, batch_size=config.eval_batch_size,
        decoding=bench.decoding, answered=answered,
    )  # fmt: skip


def _finish(
    config: RunConfig, method: Method, bench: Bench, trainer: PrefixTrainer, metric: str | None, seconds: float
) -> dict[str, Any]:
    """Score the best checkpoint, write the prefix and the metrics, and remove what is no longer needed."""
    from prefixtune.checkpoint import read_config

    output, state, data = Path(config.output), trainer.state, bench.data
    scores = {
        role: _measure(config, bench, table)
        for role, table in (("eval", data.eval), ("test", data.test))
        if table is not None
    }
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
        "max_length": config.max_length,
        "metrics": found,
    }
    pt.save(bench.model, output, name=config.name, metadata=metadata)
    parameters = {**_parameters(bench.model), "stored": read_config(output)["stored_parameters"]}
    found["parameters"] = {**parameters, "stored_percent": 100 * parameters["stored"] / parameters["base"]}
    results.write_history(output, state.log_history)
    results.plot(output, state.log_history, metric)
    results.write_json(output / results.METRICS, found)  # last: it says that the run is finished
    if not config.keep_checkpoints:
        shutil.rmtree(output / results.CHECKPOINTS, ignore_errors=True)
    return found


def _parameters(model: PreTrainedModel) -> dict[str, int]:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"base": sum(p.numel() for p in model.parameters()) - trained, "trained": trained}


def _digests(config: RunConfig, data: Data) -> dict[str, Any]:
    given = {"train": (config.train, data.train), "eval": (config.eval, data.eval), "test": (config.test, data.test)}
    return {
        role: {"rows": len(table), "sha256": results.digest(path)}
        for role, (path, table) in given.items()
        if path is not None and table is not None
    }
