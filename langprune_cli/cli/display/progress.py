"""The progress bar of a pass: on one line, or on several if the terminal is too narrow."""

from collections.abc import Iterable
from datetime import timedelta

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LEAST_BAR, _MOST_BAR = 10, 40
_GAP = 2


class Bar(Progress):
    """The progress of one pass."""

    def __init__(self, what: str, total: int, blocks: int, *, console: Console) -> None:
        """Show `what` at 0 of `total` tokens; blocks: their number, 0 if only `total` counts."""
        super().__init__(console=console, transient=True, get_time=console.get_time)
        self._what, self._blocks = what, blocks
        self.add_task(what, total=total, block=0, rate="")

    def show(self, done: int, block: int, rate: str) -> None:
        """Show that `done` of the total is done, and the current block, counted from 1."""
        self.update(self.task_ids[0], completed=done, block=block, rate=rate)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the description, the bar and the figures, none of them cut."""
        for task in self.tasks:
            width = self.console.width
            figures = self._figures(task, width)
            room = width - cell_len(self._what) - _GAP
            beside = len(figures) == 1 and room - cell_len(figures[0]) - _GAP >= _LEAST_BAR
            bar_room = room - cell_len(figures[0]) - _GAP if beside else room
            bar = ProgressBar(total=task.total, completed=task.completed, width=max(1, min(_MOST_BAR, bar_room)))
            if bar_room >= _LEAST_BAR:
                yield _side_by_side(self._what, bar, *(figures if beside else []))
            else:
                yield Text(self._what)
            if not beside:
                yield from map(Text, figures)

    def _figures(self, task: Task, width: int) -> list[str]:
        """Return block, speed and times on one line, or the times on a second line."""
        place = [f"block {task.fields['block']}/{self._blocks}"] if self._blocks else []
        parts = [*place, *filter(None, [task.fields["rate"]])]
        seconds, share = task.elapsed or 0.0, task.completed / (task.total or 1)
        passed = f"{_clock(seconds)} elapsed"
        left = [f"{_clock(seconds * (1 - share) / share)} left"] if share else []
        full = ", ".join([*parts, passed, *left])
        return [full] if cell_len(full) <= width else [", ".join(parts), ", ".join([passed, *left])]


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _side_by_side(*parts: RenderableType) -> Table:
    grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for _ in parts:
        grid.add_column(no_wrap=True)
    grid.add_row(*(Text(part) if isinstance(part, str) else part for part in parts))
    return grid
