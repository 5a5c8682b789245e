"""What the commands show on the console."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_run(output: str, found: Mapping[str, Any]) -> None:
    """The end of a training run: sizes, then scores."""
    parameters = found["parameters"]
    table = Table(title=Text(output), show_header=False, title_justify="left")
    table.add_row("trained parameters", f"{parameters['trained']:,}")
    table.add_row("stored parameters", f"{parameters['stored']:,} ({parameters['stored_percent']:.3f} % of the base)")
    table.add_row("base model", f"{parameters['base']:,}")
    table.add_row("steps", f"{found['steps']:,} (the prefix is of step {found['best_step']:,}), {found['seconds']} s")
    for role, title in (("eval", "development"), ("test", "test")):
        if role in found:
            table.add_row(title, scores(found[role]))
    Console().print(table)


def scores(values: Mapping[str, float]) -> str:
    """`f1 0.7012   loss 0.4310`."""
    return "   ".join(f"{name} {value:.4f}" for name, value in values.items())


def show_facts(title: str, rows: Mapping[str, str]) -> None:
    """Names and values, one a row."""
    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console().print(table)


def show_table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table of texts; where the terminal is too narrow, cells are folded. A file or a pipe takes wide lines."""
    table = Table(title=Text(title), title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not place)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def show_answers(prompts: Sequence[str], answers: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
    """Answers side by side, a column a prefix."""
    table = Table(show_lines=True)
    for column in ("prompt", *names):
        table.add_column(column, overflow="fold")
    for prompt, row in zip(prompts, answers, strict=True):
        table.add_row(Text(prompt), *(Text(row[name]) for name in names))
    Console().print(table)
