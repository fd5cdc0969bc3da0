"""What the user sees: progress and notes on stderr, results on stdout."""

import atexit
import json
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from langprune_cli.cli.log import running_log
from langprune_cli.errors import printable, printable_json

_PIPED_WIDTH = 160  # a pipe has no width; narrower, rich would cut names
_QUIET_SECONDS = 3.0  # plain progress lines come no oftener


class ConsoleReporter:
    """Shows notes, and progress as a bar on a terminal or as plain lines where stderr is piped."""

    def __init__(self) -> None:
        self._console = Console(
            stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else _PIPED_WIDTH
        )
        self._bar: Progress | None = None
        self._what = ""
        self._blocks = 0
        self._total = 0
        self._done = 0
        self._block = 0
        self._begun = self._said = 0.0

    def note(self, text: str) -> None:
        """Show one sentence."""
        if log := running_log():
            log.write(printable(text))
        self._console.print(_shown(text), style="dim" if self._console.is_terminal else "", soft_wrap=True)

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        """Start the progress of a pass of `tokens` tokens in all through `blocks` blocks; with 0 of one the other is counted."""
        self.end()
        if log := running_log():
            log.start()
            log.write(f"{what}: {blocks} blocks, {tokens:,} tokens" if tokens else f"{what}: {blocks} blocks")
        self._what, self._blocks, self._total, self._done, self._block = what, blocks, tokens, 0, 0
        self._begun = self._said = time.monotonic()
        if self._console.is_terminal:
            atexit.register(self.end)  # an error or Ctrl-C must not leave the terminal without its cursor
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                *([TextColumn("block {task.fields[block]}/{task.fields[blocks]}")] if blocks else []),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(_shown(what), total=tokens or blocks, block=0, blocks=blocks, rate="")
            self._bar.start()

    def tick(self, block: int, tokens: int) -> None:
        """Say that `tokens` more tokens went through `block`, counted from 0."""
        now = time.monotonic()
        self._done += tokens or (0 if self._total else 1)
        rate = self._done / max(now - self._begun, 1e-9)
        speed = f"{rate:,.0f} tokens/s" if self._total else ""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self._done, block=block + 1, rate=speed)
        elif (block != self._block or not self._blocks) and now - self._said >= _QUIET_SECONDS:
            left = ((self._total or self._blocks) - self._done) / rate
            place = f"{self._what}: block {block} of {self._blocks}" if self._blocks else self._what
            parts = [place, speed, f"{left:.0f} s left"]
            self.note(", ".join(filter(None, parts)))
            self._said = now
        self._block = block

    def end(self) -> None:
        """End the progress, if one is shown."""
        if self._bar:
            self._bar.stop()
        self._bar = None


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(printable_json(json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = frozenset()
) -> None:
    """Print a table on stdout; columns whose cells are all figures are set to the right, the cells of `bold` (row, column) bold.

    Nothing is cut: where the terminal is narrow, the last column wraps, and the others stay whole.
    """
    columns, *rows = [[printable(cell) for cell in row] for row in (columns, *rows)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        figures = bool(rows) and all(row[number][:1] in "+-0123456789" for row in rows if row[number])
        width = max(len(cell) for cell in [name, *(row[number] for row in rows)])
        last = number == len(columns) - 1 and not figures
        table.add_column(
            escape(name),
            justify="right" if figures else "left",
            no_wrap=not last,
            min_width=None if last else width,
            overflow="fold",
        )
    for line, row in enumerate(rows):
        cells = map(escape, row)
        table.add_row(*(f"[bold]{cell}[/bold]" if (line, n) in bold else cell for n, cell in enumerate(cells)))
    Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)


def print_line(text: str) -> None:
    """Print one line of a result on stdout."""
    sys.stdout.write(printable(text) + "\n")


def _shown(text: str) -> str:
    """Return a text for rich, with nothing in it that rich or a terminal would take for a command."""
    return escape(printable(text))
