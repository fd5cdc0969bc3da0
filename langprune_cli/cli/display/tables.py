"""Tables on stdout, complete at any width: a table that is too wide becomes several tables, or a line per cell."""

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from langprune_cli.errors import printable

_GAP = 2  # characters between two columns
_LEAST_TEXT = 24  # the least width of a wrapped last column


@dataclass(frozen=True)
class Column:
    """One column of a table, as wide as its widest cell."""

    head: str
    cells: tuple[str, ...]

    @property
    def figures(self) -> bool:
        """Return whether all cells are figures, which are right-aligned."""
        return bool(self.cells) and all(cell[:1] in "+-0123456789" for cell in self.cells if cell)

    @property
    def width(self) -> int:
        """Return its width in characters."""
        return max(cell_len(cell) for cell in (self.head, *self.cells))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = frozenset()
) -> None:
    """Print a table on stdout; columns of figures are right-aligned, and the cells of `bold` (row, column) bold.

    Every cell is printed in full. In a pipe a row is one line of any length. In a narrow terminal the first of these that fits
    is used:
    wrap the last column, if it is text; split into several tables that repeat the first column, if all others are figures; else
    print each row on several lines. The last two say so.
    """
    heads, *lines = [[printable(cell) for cell in row] for row in (columns, *rows)]
    found = [Column(head, tuple(line[number] for line in lines)) for number, head in enumerate(heads)]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    for line in _laid_out(found, width, bold):
        console.print(line)


def _laid_out(columns: list[Column], width: int, bold: Collection[tuple[int, int]]) -> Iterator[Text]:
    """Yield the lines of a table for a terminal of that width."""
    needed = _wide(columns)
    numbers = list(range(len(columns)))
    last, others = columns[-1], _wide(columns[:-1])
    if needed <= width:
        yield from _beside(columns, numbers, bold)
    elif not last.figures and len(columns) > 1 and width - others - _GAP >= _LEAST_TEXT:
        yield from _beside(columns, numbers, bold, room=width - others - _GAP)
    elif all(each.figures and columns[0].width + _GAP + each.width <= width for each in columns[1:]):
        parts = _parts(columns, width)
        for number, part in enumerate(parts):
            if number:
                yield Text("")
            yield from _beside(columns, [0, *part], bold)
        yield Text(f"({len(parts)} tables: a single one needs a terminal of {needed} columns, this one has {width})")
    else:
        for row in range(len(columns[0].cells)):
            yield from _stacked(columns, row, width, bold)
        yield Text(f"(each row on several lines: a table needs a terminal of {needed} columns, this one has {width})")


def _wide(columns: Sequence[Column]) -> int:
    return sum(each.width for each in columns) + _GAP * max(0, len(columns) - 1)


def _parts(columns: list[Column], width: int) -> list[list[int]]:
    """Return the column numbers of each of several tables that all begin with the first column."""
    parts: list[list[int]] = [[]]
    used = columns[0].width
    for number, each in enumerate(columns[1:], 1):
        if used + _GAP + each.width > width and parts[-1]:
            parts.append([])
            used = columns[0].width
        parts[-1].append(number)
        used += _GAP + each.width
    return parts


def _beside(
    columns: list[Column], numbers: list[int], bold: Collection[tuple[int, int]], room: int | None = None
) -> Iterator[Text]:
    """Yield a table of some columns; room: the width to wrap the last one to, if it is too wide."""
    indent = _wide([columns[number] for number in numbers[:-1]]) + _GAP
    for row in range(-1, len(columns[0].cells)):
        line = Text()
        for number in numbers:
            column = columns[number]
            cell = column.head if row < 0 else column.cells[row]
            strong = "bold" if row < 0 or (row, number) in bold else ""
            line.append(" " * _GAP if number != numbers[0] else "")
            if number == numbers[-1] and not column.figures:
                for place, piece in enumerate(_wrapped(cell, room)):
                    if place:
                        yield line
                        line = Text(" " * indent)
                    line.append(piece, strong)
            else:
                blank = " " * (column.width - cell_len(cell))
                line.append(blank if column.figures else "").append(cell, strong)
                line.append("" if column.figures or number == numbers[-1] else blank)
        line.rstrip()
        yield line


def _wrapped(cell: str, room: int | None) -> list[str]:
    """Return the lines of a cell, broken between words, and inside words longer than a line."""
    if room is None or cell_len(cell) <= room:
        return [cell]
    lines = [""]
    for whole in cell.split(" "):
        word = whole
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= room:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        while cell_len(word) > room:
            piece = set_cell_size(word, room).rstrip()
            lines[-1] = piece
            lines.append("")
            word = word[len(piece) :]
        lines[-1] = word
    return lines


def _stacked(columns: list[Column], row: int, width: int, bold: Collection[tuple[int, int]]) -> Iterator[Text]:
    """Yield one row: its first cell, and below it the others with their headings, as many per line as fit.

    The terminal wraps a cell that is longer than a line, so that users can copy it whole.
    """
    yield Text(columns[0].cells[row], "bold")
    line = Text()
    for number, column in enumerate(columns[1:], 1):
        if not (cell := column.cells[row]):
            continue
        pair = Text(f"{column.head}: " if column.head else "").append(cell, "bold" if (row, number) in bold else "")
        if line.plain and line.cell_len + pair.cell_len + _GAP > width:
            yield line
            line = Text()
        line.append(" " * _GAP).append_text(pair)
    if line.plain:
        yield line
