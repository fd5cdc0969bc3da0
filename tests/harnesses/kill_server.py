"""The process that runs the commands of kill_harness.py: imports once, and a fork of it for each process of a command."""

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from tests.harnesses.power_cut import Disk

FILE_OPERATIONS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "symlink", "utime")  # of os
MEETINGS = ("broadcast_object_list", "all_gather_object", "all_reduce", "broadcast")  # of torch.distributed
POWER = "power-cut"  # in the place of a signal: the end of the machine, and what was not synced may be lost
_LONGEST_SECONDS = 120  # for a command: one that takes longer waits for somebody who is gone


@dataclass(frozen=True)
class Kill:
    """The end of a process: a signal at its n-th operation, counted from 1. A power cut comes at its end at the latest."""

    signal: str
    operation: int
    when: str  # "before" or "after" the operation, or "torn": before it, a file that is to be synced being cut
    share: float  # of a torn file that is left; what a power cut leaves is drawn from it
    rank: int  # of several processes, which


def serve() -> None:
    """Import everything once, then run each command that stdin names in forks of this process, and answer on stdout.

    A line in: {"words", "kill" or null, "states", "here": the folder of what is on the disk, "stderr": a file for each process}.
    A line out: {"codes", "operations": 0 of a process that did not come to its end}, by rank.
    """
    import torch._dynamo  # noqa: F401, PLC0415 - what commands would import one by one
    from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401, PLC0415

    from langprune_cli.cli import app  # noqa: F401, PLC0415
    from langprune_cli.requests.shared import run as _run  # noqa: F401, PLC0415
    from langprune_cli.stages.apply import apply  # noqa: F401, PLC0415
    from langprune_cli.stages.demo import demo  # noqa: F401, PLC0415
    from langprune_cli.stages.evaluate import evaluate  # noqa: F401, PLC0415
    from langprune_cli.stages.mask import mask, score, whole  # noqa: F401, PLC0415
    from langprune_cli.stages.plan import plan  # noqa: F401, PLC0415
    from langprune_cli.stages.recover import recover, tuning_run  # noqa: F401, PLC0415

    for line in sys.stdin:
        run = json.loads(line)
        counts = [Path(f"{stderr}.count") for stderr in run["stderr"]]
        for count in counts:
            count.unlink(missing_ok=True)
        places = _places(len(run["stderr"]))
        pids = []
        for rank, place in enumerate(places):
            pids.append(os.fork())
            if pids[-1] == 0:
                os._exit(_child(run, rank, place, counts[rank]))
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        operations = [int(count.read_text()) if count.is_file() else 0 for count in counts]
        sys.stdout.write(json.dumps({"codes": codes, "operations": operations}) + "\n")
        sys.stdout.flush()


def _places(processes: int) -> list[dict[str, str]]:
    """Return what torchrun tells each of several processes about its place; a single one is told nothing."""
    if processes == 1:
        return [{}]
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(processes)]


def _child(run: dict[str, Any], rank: int, place: dict[str, str], count: Path) -> int:
    """Run one command, or one of several processes of it, killed or counted, and return its exit code."""
    from langprune_cli.__main__ import main  # noqa: PLC0415 - imported before the fork
    from langprune_cli.stages.recover import distilling  # noqa: PLC0415
    from langprune_cli.streaming import resuming  # noqa: PLC0415

    os.environ.update(place)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the parent runs in the background
    signal.alarm(_LONGEST_SECONDS)
    os.dup2(os.open(run["stderr"][rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if run["states"]:
        resuming.SAVE_AFTER_SECONDS = distilling.SAVE_AFTER_SECONDS = 0.0
    kill = Kill(**run["kill"]) if run["kill"] else None
    kill = kill if kill and kill.rank == rank else None
    disk = Disk(Path(run["here"])) if kill and kill.signal == POWER else None
    watch = _Watch(kill, disk)
    code = main(run["words"])
    sys.stderr.flush()
    count.write_text(str(watch.done))
    if disk:
        watch.end()
    return code


class _Watch:
    """Counts the operations of this process, and ends it at the one that `kill` names."""

    def __init__(self, kill: Kill | None, disk: Disk | None) -> None:
        """Begin; disk: of a power cut."""
        self.done = 0
        self._kill = kill
        self._disk = disk
        self._lock = RLock()  # threads write as well
        self._real = [(module, name, getattr(module, name)) for module, name in _watched()]
        for module, name, real in self._real:
            setattr(module, name, self._watched(name, real))

    def end(self) -> None:
        """End the process as `kill` has it."""
        if self._kill and self._disk:
            for module, name, real in self._real:  # what the disk does now is nobody's operation
                setattr(module, name, real)
            self._lock.acquire()  # never released: a thread does nothing once the power is gone
            self._disk.cut(random.Random(self._kill.share))
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._kill:
            os.kill(os.getpid(), getattr(signal, self._kill.signal))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            kill = self._kill
            with self._lock:
                self.done += 1
                done = self.done
            if kill is None or done != kill.operation:
                return self._noted(name, real, *args, **kwargs)
            if kill.when == "torn" and name == "fsync" and not self._disk:
                with suppress(OSError):  # a folder has no bytes to lose
                    os.ftruncate(args[0], int(os.fstat(args[0]).st_size * kill.share))
            found = self._noted(name, real, *args, **kwargs) if kill.when == "after" else None
            self.end()
            return found if kill.when == "after" else real(*args, **kwargs)

        return operation

    def _noted(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do an operation, and let the disk know of it."""
        if not self._disk:
            return real(*args, **kwargs)
        with self._lock:
            self._disk.look()
            found = real(*args, **kwargs)
            if name == "fsync":
                self._disk.synced(args[0])
            else:
                self._disk.look()
        return found


def _watched() -> Iterator[tuple[Any, str]]:
    import torch.distributed  # noqa: PLC0415 - imported before the fork

    yield from ((os, name) for name in FILE_OPERATIONS)
    yield from ((torch.distributed, name) for name in MEETINGS)


if __name__ == "__main__":
    serve()
