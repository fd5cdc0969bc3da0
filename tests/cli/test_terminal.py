"""What a terminal of 60, 80 or 120 columns shows: every value of every table, and whole figures beside the bar."""

import contextlib
import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from langprune_cli.cli.display import console as console_module
from langprune_cli.cli.display.progress import Bar
from langprune_cli.cli.display.tables import print_table
from tests.support.command import langprune

LONG = "a-name-that-somebody-chose-with-care-" * 2
TABLES = {  # headings and rows
    "texts": (["kind", "name", "size", "what"], [["masks", LONG, "1,234.56 MB", "wanda 2:4 from uk, 50% of it"]] * 2),
    "figures": (["layer", *(f"{each}_proj" for each in "qkvogud"), "seconds"], [["0", *["12.34%"] * 7, "1.5"]] * 2),
    "mixed": (["tag", "language", "ppl", "licence"], [["zh", "中文" * 30, "1.250", "cc-by"], ["uk", LONG, "", "cc0"]]),
}  # fmt: skip


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


@pytest.fixture(params=[60, 80, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the columns of a terminal without colours."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "dumb")
    return int(request.param)


@pytest.mark.parametrize("name", TABLES)
def test_no_value_of_a_table_is_lost(name: str, width: int) -> None:
    heads, rows = TABLES[name]
    with contextlib.redirect_stdout(Terminal()) as screen:
        print_table(heads, rows)
    shown = screen.getvalue()
    words = "".join(shown.split())  # a last column may be wrapped
    for number in range(len(heads)):
        for cell in {row[number] for row in rows}:
            assert words.count("".join(cell.split())) >= sum(row[number] == cell for row in rows), (cell, shown)
    assert all(head in shown for head in heads[1:])
    assert (f"this one has {width}" in shown) == (name == "mixed" or width < (120 if name == "texts" else 80))
    too_long = [line for line in shown.splitlines() if cell_len(line) > width]
    assert all(line.startswith(("  ", "(")) for line in too_long)  # one value, which the terminal wraps


def test_a_pipe_gets_a_line_for_each_row(workspace: Path) -> None:
    lines = langprune("ls", "-w", workspace).out.splitlines()
    assert len(lines) == 1 + len(list(workspace.glob("*/*/manifest.json")))


def test_the_bar_has_whole_figures_and_names_its_times(width: int) -> None:
    now = [0.0]
    size = {"width": width, "height": 25}  # rich takes a width alone for unknown where the terminal is dumb
    console = Console(**size, force_terminal=True, color_system=None, file=io.StringIO(), get_time=lambda: now[0])
    bar = Bar("Calibrating on uk", 1_000_000, 120, console=console)
    now[0] = 3000.0
    bar.show(300_000, 36, "123,456 tokens/s")
    with console.capture() as captured:
        for each in bar.get_renderables():
            console.print(each)
    shown = captured.get()
    assert all(part in shown for part in ("Calibrating on uk", "block 36/120", "123,456 tokens/s", "1:56:40 left"))
    assert "0:50:00 elapsed" in shown
    assert "…" not in shown
    assert all(cell_len(line) <= width for line in shown.splitlines())


def test_a_pipe_gets_fewer_lines_as_time_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a pass without blocks, such as training: each line says tokens a second and the time that is left."""
    now = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    reporter = console_module.ConsoleReporter()
    reporter.begin("recover it", 0, 36_000_000)
    for second in range(36_000):
        now[0] = second + 1.0
        reporter.tick(0, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "recover it, 1,000 tokens/s, 35997 s left"
    assert 80 < len(lines) < 250
    assert lines[-1].endswith(" s left")
