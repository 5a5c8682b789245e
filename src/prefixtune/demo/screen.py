"""How the demo prints: paragraphs, labelled lines and small tables, all with the same margin."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

WIDTH = 100
"""Longer lines are hard to read, however wide the terminal."""


class Screen:
    """The console, with a margin of two columns and an empty line after each piece."""

    def __init__(self) -> None:
        wide = Console(highlight=False)
        self.console = Console(highlight=False, width=min(wide.width, WIDTH))

    def title(self, text: str) -> None:
        self.console.print(Rule(f"[bold]{text}[/]", align="left", style="dim"))
        self.console.print()

    def say(self, markup: str) -> None:
        """A paragraph."""
        self._print(Text.from_markup(markup))

    def pairs(self, rows: Sequence[tuple[str, Text]]) -> None:
        """Labels on the left, what they label beside them."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, text in rows:
            grid.add_row(label, text)
        self._print(grid)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The first column reads, the others count."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for index, title in enumerate(titles):
            table.add_column(title, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self._print(table)

    def waiting(self, what: str) -> Status:
        """A context with a spinner, where there is a terminal."""
        return self.console.status(f"[dim]{what} ...[/]")

    def _print(self, piece: RenderableType) -> None:
        self.console.print(Padding(piece, (0, 0, 1, 2)))
