"""Every type, each in a process of its own with a time limit, several at once."""

import gc
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Client, Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.survey.kinds import Kind
from tests.survey.stock import BYTES, FORK, SECONDS, USUAL, Measured, Request, Save, be_quiet, cpu_seconds, serving

if TYPE_CHECKING:  # langprune comes with it, and stock transformers is started before
    from tests.survey.subject import Pruned, Subject

WORKS = "works"
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - folders of random names are made in it
_ROOM = 1 << 30  # bytes of one type, at most


@dataclass
class Row:
    """What became of a type."""

    kind: Kind
    not_built: str = ""  # why stock transformers has no tiny model of it
    cells: dict[str, str] = field(default_factory=dict)  # by column: WORKS, or langprune's sentence
    wrong: dict[str, str] = field(default_factory=dict)  # by column: what is not as it has to be
    seconds: float = 0.0  # of CPU time, with what stock transformers took


def survey(kinds: Iterable[Kind], processes: int) -> Iterator[Row]:
    """Yield the row of each type, in any order. Nothing may have imported langprune before."""
    todo, running = list(reversed(list(kinds))), {}
    with serving() as address, tempfile.TemporaryDirectory(dir=_where(processes)) as place:
        stations = Stations(address, Path(place))
        _surveyed(USUAL, stations, lambda _: None)  # here, so that processes that are forked have imported everything
        gc.freeze()  # else every collection in one of them goes through all that was imported
        while todo or running:
            while todo and len(running) < processes:
                kind = todo.pop()
                running |= {started[0]: (kind, started[1], time.monotonic()) for started in [_start(kind, stations)]}
            for ready in wait(list(running), 1):
                kind, process, since = running.pop(ready)
                yield _received(ready, kind, process, time.monotonic() - since)
            for late in [each for each, (_, _, since) in running.items() if time.monotonic() - since > SECONDS]:
                os.killpg(running[late][1].pid, signal.SIGKILL)  # the connection ends by it


@dataclass(frozen=True)
class Stations:
    """Where a type is worked on."""

    stock: str  # the address of stock transformers
    place: Path  # for folders


def _where(processes: int) -> Path | None:
    """Return where folders lie: in memory, if there is room; else a quarter of the time goes by with waiting for the disk."""
    in_memory = _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _ROOM * processes
    return _IN_MEMORY if in_memory else None


def _start(kind: Kind, stations: Stations) -> tuple[Connection, ForkProcess]:
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_work, args=(kind, stations, there))
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
    return row


def _work(kind: Kind, stations: Stations, answers: Connection) -> None:
    """Fill the row of a type, in a process of its own, and send it after every column: what is sent last counts."""
    os.setpgrp()
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    be_quiet()
    answers.send(_surveyed(kind, stations, answers.send))


def _surveyed(kind: Kind, stations: Stations, tell: Callable[[Row], None]) -> Row:
    """Return the row of a type; `tell` gets what is known of it before every column."""
    row = Row(kind)
    with tempfile.TemporaryDirectory(dir=stations.place) as place, Client(stations.stock) as stock:

        def ask(request: Request) -> Measured:
            stock.send(request)
            found = stock.recv()
            assert isinstance(found, Measured), f"stock transformers: {found}"
            return found

        folder = Path(place, kind.name)
        stock.send(Save(kind, folder))
        if problem := stock.recv():
            row.not_built = str(problem)
        else:
            from tests.survey.subject import Subject  # noqa: PLC0415

            _fill(row, Subject(kind, folder, folder.parent, ask), tell)
        stock.send(None)
        row.seconds = cpu_seconds() + stock.recv()
    return row


def _fill(row: Row, subject: "Subject", tell: Callable[[Row], None]) -> None:
    from tests.survey.checks import CHECKS  # noqa: PLC0415

    pruned: dict[str, Pruned] = {}
    for column, check in CHECKS.items():
        row.wrong[column] = "its process ended"
        tell(row)
        if made := _tried(row, column, subject, partial(check, subject)):
            pruned[column] = made
    row.wrong |= dict.fromkeys(pruned, "its process ended during eval")
    tell(row)
    try:
        subject.check_pruned(list(pruned.values()))
    except Exception:  # noqa: BLE001 - which of them it is, is said by what follows
        for column, each in pruned.items():
            _tried(row, column, subject, partial(subject.check_pruned, [each]))
    else:
        row.wrong = {column: what for column, what in row.wrong.items() if column not in pruned}


def _tried(row: Row, column: str, subject: "Subject", check: Callable[[], "Pruned | None"]) -> "Pruned | None":
    """Run a check, and put what came of it into the row."""
    from langprune_cli.errors import LangpruneError  # noqa: PLC0415

    made = None
    try:
        made = check()
        row.cells[column] = (made and made.differs) or row.cells.get(column, WORKS)
    except LangpruneError as error:
        row.cells[column] = str(error).replace(str(subject.place) + "/", "")
    except Exception as error:  # noqa: BLE001 - what is no LangpruneError is a fault, whatever it is
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        row.wrong[column] = f"{type(error).__name__}: {str(error)[:400]}\n{where}"
        return None
    del row.wrong[column]
    return made
