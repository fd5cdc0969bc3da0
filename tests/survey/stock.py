"""Stock transformers in processes of their own, which cannot import langprune: what it makes of folders."""

import gc
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.reference.identity import output_is_input
from tests.reference.routing import Unpicked, never_picked
from tests.survey.kinds import Kind, NotBuiltError, logits_of, opened, save, some_windows

SECONDS = 120  # of one type
BYTES = 16 << 30  # of address space
FORK = get_context("fork")
USUAL = Kind(
    "phimoe", "causal"
)  # what processes have worked on before they are forked: all that is imported late is there
_GENERATED = 4


@dataclass(frozen=True)
class Save:
    """A type of which a tiny model is to be saved."""

    kind: Kind
    folder: Path


@dataclass(frozen=True)
class Measured:
    """What a model makes of windows of text."""

    logits: Tensor  # [n, t, vocabulary]
    nats: float  # mean loss of a predicted token
    generated: object  # how many tokens it writes after a prompt, or why it writes none
    problems: dict[str, object]  # parameters that the folder lacks, or has too many of


@dataclass(frozen=True)
class Request:
    """A folder to open and run."""

    kind: Kind
    folder: Path
    windows: Tensor
    generates: bool = False
    blocks: str = ""  # the list of the model's blocks
    idle: tuple[int, ...] = ()  # those that hand on what they are given
    unpicked: Sequence[Unpicked] = ()  # experts that no token goes to


def measure(asked: Request) -> Measured:
    """Return what a model makes of windows."""
    model, problems = opened(asked.kind, asked.folder)
    blocks: Any = model.get_submodule(asked.blocks)
    for index in asked.idle:
        blocks[index].register_forward_hook(output_is_input, with_kwargs=True)
    with ExitStack() as stack:
        for each in asked.unpicked:
            stack.enter_context(never_picked(blocks[each.block], each))
        logits = logits_of(model, asked.windows)
    rows = logits[:, :-1].double().log_softmax(-1)
    nats = -rows.gather(-1, asked.windows[:, 1:, None]).mean()
    generated = _generated(model, asked.windows[:1, :5]) if asked.generates else None
    return Measured(logits, float(nats), generated, problems)


def _generated(model: Any, prompt: Tensor) -> object:
    limits = {"max_new_tokens": _GENERATED, "min_new_tokens": _GENERATED}
    try:
        return model.generate(prompt, do_sample=False, **limits).shape[1] - prompt.shape[1]
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextmanager
def serving() -> Iterator[str]:
    """Yield an address at which every connection is answered by a process of its own. langprune may be imported afterwards."""
    with Listener(family="AF_UNIX", backlog=16) as listener:
        process = FORK.Process(target=_serve, args=(listener,))
        process.start()
        try:
            yield listener.address  # type: ignore[misc] # a path
        finally:
            process.terminate()
            process.join()


def _serve(listener: Listener) -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] == "langprune_cli"]
    if loaded:
        raise RuntimeError(f"this process has {loaded}")
    sys.modules["langprune_cli"] = None  # type: ignore[assignment] # what makes `import` fail
    be_quiet()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, USUAL.name)
        save(USUAL, folder)
        measure(Request(USUAL, folder, some_windows(1), generates=True))
    gc.freeze()  # else every collection in a forked process goes through all that was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that end leave nothing behind
    while True:
        with listener.accept() as connection:
            if not os.fork():
                try:
                    _answer(connection)
                finally:
                    os._exit(0)


def _answer(connection: Connection) -> None:
    """Answer requests until None comes, then say how much CPU time that took."""
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    while (asked := connection.recv()) is not None:
        try:
            connection.send(save(asked.kind, asked.folder) if isinstance(asked, Save) else measure(asked))
        except NotBuiltError as error:
            connection.send(error)
        except Exception as error:  # noqa: BLE001 - as above
            connection.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    connection.send(cpu_seconds())


def be_quiet() -> None:
    """Send what this process prints nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def cpu_seconds() -> float:
    """Return the CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
