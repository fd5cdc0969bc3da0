"""Every type, each in a process of its own with a time limit, several at once."""

import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from tests.survey.kinds import Kind, NotBuiltError, save

WORKS = "works"
_FORK = multiprocessing.get_context("fork")
_SECONDS = 120
_BYTES = 16 << 30  # of address space


@dataclass
class Row:
    """What became of a type."""

    kind: Kind
    not_built: str = ""  # why stock transformers has no tiny model of it
    cells: dict[str, str] = field(default_factory=dict)  # by column: WORKS, or langprune's sentence
    wrong: dict[str, str] = field(default_factory=dict)  # by column: what is not as it has to be
    seconds: float = 0.0


def survey(kinds: Iterable[Kind], processes: int) -> Iterator[Row]:
    """Yield the row of each type, in any order. Nothing may have imported langprune before."""
    todo, running = list(reversed(list(kinds))), {}
    while todo or running:
        while todo and len(running) < processes:
            kind = todo.pop()
            running |= {started[0]: (kind, started[1], time.monotonic()) for started in [_start(kind)]}
        for ready in wait(list(running), 1):
            kind, process, since = running.pop(ready)
            yield _received(ready, kind, process, time.monotonic() - since)
        for late in [each for each, (_, _, since) in running.items() if time.monotonic() - since > _SECONDS]:
            os.killpg(running[late][1].pid, signal.SIGKILL)  # the connection ends by it


def _start(kind: Kind) -> tuple[Connection, ForkProcess]:
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(kind, there))
    process.start()
    there.close()
    return here, process


def _received(ready: Connection, kind: Kind, process: ForkProcess, seconds: float) -> Row:
    row = Row(kind, wrong={"stream": f"its process ended without an answer after {seconds:.0f} s"})
    try:
        while True:
            row = ready.recv()
    except EOFError:
        process.join()
    row.seconds = seconds
    return row


def _work(kind: Kind, answers: Connection) -> None:
    """Fill the row of a type, in a process of its own, and send it after every column: what is sent last counts."""
    os.setpgrp()
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    with tempfile.TemporaryDirectory() as place:
        row = Row(kind)
        folder = Path(place, kind.name)
        try:
            save(kind, folder)
        except NotBuiltError as error:
            row.not_built = str(error)
        else:
            _check(row, folder, answers)
        answers.send(row)


def _check(row: Row, folder: Path, answers: Connection) -> None:
    from tests.survey.stock import Measured, Request, serve  # noqa: PLC0415

    ours, theirs = _FORK.Pipe()
    stock = _FORK.Process(target=serve, args=(theirs,))
    stock.start()  # before langprune is imported here
    theirs.close()

    def ask(request: Request) -> Measured:
        ours.send(request)
        found = ours.recv()
        assert isinstance(found, Measured), f"stock transformers: {found}"
        return found

    from langprune_cli.errors import LangpruneError  # noqa: PLC0415
    from tests.survey.checks import CHECKS, DiffersError, Subject  # noqa: PLC0415

    subject = Subject(row.kind, folder, folder.parent, ask)
    for column, check in CHECKS.items():
        row.wrong = row.wrong | {column: "its process ended"}
        answers.send(row)
        try:
            check(subject)
            row.cells[column] = WORKS
            del row.wrong[column]
        except (LangpruneError, DiffersError) as error:
            row.cells[column] = str(error).replace(str(folder.parent) + "/", "")
            del row.wrong[column]
        except Exception as error:  # noqa: BLE001 - what is no LangpruneError is a fault, whatever it is
            row.wrong[column] = f"{type(error).__name__}: {str(error)[:400]}\n" + "".join(
                traceback.format_tb(error.__traceback__)[-2:]
            )
    ours.send(None)
    stock.join()
