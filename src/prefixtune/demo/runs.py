"""What both parts of the demo share: a training run with the project's own Trainer, and a bar that shows it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from prefixtune.bank import bank_of, base_size
from prefixtune.checkpoint import write_whole
from prefixtune.demo.screen import Screen
from prefixtune.training.bench import Bench
from prefixtune.training.config import RunConfig
from prefixtune.training.trainer import build_trainer


@dataclass(frozen=True)
class Trained:
    """What one training run cost: trainable numbers, those of the base model, and seconds."""

    trained: int
    base: int
    seconds: float


class Bar(TrainerCallback):
    """Trainer's steps as one quiet line."""

    def __init__(self, screen: Screen, label: str, steps: int) -> None:
        columns = (TextColumn("  {task.description}"), BarColumn(32), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("[dim]loss {task.fields[loss]}"))  # fmt: skip
        self.progress = Progress(*columns, console=screen.console)
        self.row = self.progress.add_task(label, total=steps, loss="")

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.progress.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.progress.advance(self.row)

    def on_log(self, *_: Any, logs: Mapping[str, Any] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.progress.update(self.row, loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.progress.stop()
        self.progress.console.print()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """The rows as JSON lines, the format `prefixtune train` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole({path: "".join(json.dumps(row) + "\n" for row in rows).encode()})
    return path


def train(screen: Screen, label: str, config: RunConfig, bench: Bench) -> Trained:
    """Train the prefix `config.name`, which is attached to the model, as `prefixtune train` would."""
    trainer = build_trainer(config, bench, None)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Bar(screen, label, trainer.args.max_steps))
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    bank = bank_of(bench.model)
    ours = [*bank.get(config.name).parameters(), *bank.heads_of(config.name).parameters()]
    trained = sum(parameter.numel() for parameter in ours if parameter.requires_grad)
    return Trained(trained, base_size(bench.model), seconds)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for Trainer's own checkpoints, which the demo does not keep."""
    return tempfile.TemporaryDirectory(prefix="prefixtune-demo-")
