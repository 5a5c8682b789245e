"""Two quiet lines: which run of how many, and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback


class Screen:
    """The progress of an experiment, on standard error."""

    def __init__(self, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("[dim]{task.fields[told]}"))  # fmt: skip
        self.progress = Progress(*columns, console=Console(stderr=True))
        self.runs = self.progress.add_task("runs", total=total, told="")
        self.steps = self.progress.add_task("steps", total=None, told="")
        self.passed = 0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def begin(self, what: str) -> None:
        """Say which run it is."""
        self.progress.update(self.runs, told=what)
        self.progress.reset(self.steps, total=None, told="")

    def done(self, count: int = 1) -> None:
        """So many runs less."""
        self.passed += count
        self.progress.advance(self.runs, count)

    def bar(self) -> TrainerCallback:
        """What Trainer tells of its steps."""
        return _Steps(self)


class _Steps(TrainerCallback):
    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.screen.progress.update(self.screen.steps, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.screen.progress.update(self.screen.steps, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.screen.progress.update(self.screen.steps, told=f"loss {float(logs['loss']):.3f}")
