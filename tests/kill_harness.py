"""Every stage killed at random moments, run again, and compared with a run that was not interrupted, byte by byte.

    python -m tests.kill_harness --kills 200

A kill comes at a file operation of the command, before or after it: between two of them nothing on the disk changes. A
file that was about to be synced may be cut at any byte first, as a machine that goes down leaves it. The command is then
given again, and may be killed once more; in the end every file has to be what an uninterrupted run leaves, and no other
file may be there.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.conftest import DRAW, REPOSITORY, SEQLEN, did, tree
from tests.pico import save_pico
from tests.text_corpora import byte_level, documents, write_jsonl

SAID = "interrupted: a stage goes on where it stopped when its command is given again"
THERE = "exists and is not an empty folder"  # what export says of a folder that is whole already
SIGNALS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "SIGINT": 130}  # signal -> exit code
OPERATIONS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "symlink", "utime")
UK = ["--lang", "uk", "--data", "TEXT/uk.jsonl"]
_PRUNE = ["prune", *UK, *DRAW, "--max-shard-size", "70KB", "--name", "new"]
_ROUND = ["--round-to", "8"]
# In each, TEXT is a folder of texts and HERE one that holds the workspace and whatever else the command writes.
COMMANDS: dict[str, list[str]] = {
    "calibrate": ["calibrate", *UK, *DRAW, "--seed", "3", "--collect", "hessian", "--name", "new"],
    "calibrate tokens": ["calibrate", *UK, "--collect", "tokens", "--name", "new"],
    "combine stats": ["combine", "stats", "uk", "en", "--name", "new"],
    "score": ["score", "--stats", "uk", "--method", "ria", "--name", "new"],
    "mask": ["mask", "--stats", "uk", "--pattern", "4:8", "--name", "new"],
    "combine masks": ["combine", "masks", "uk-wanda-0.5", "en-wanda-0.5", "--how", "and", "--name", "new"],
    "apply": ["apply", "--mask", "uk-wanda-0.5", "--max-shard-size", "90KB", "--name", "new"],
    "apply --out": ["apply", "--mask", "uk-wanda-0.5", "--out", "HERE/new"],
    "eval": ["eval", *UK, "--seqlen", "24", "--name", "new"],
    "export": ["export", "--model", "uk-wanda-0.5", "--out", "HERE/new", "--with-mask"],
    "prune weights": [*_PRUNE, "--pattern", "2:4"],
    "prune channels": [*_PRUNE, "--pattern", "channels:0.34", "--pattern", "kv-groups:0.5", *_ROUND],
    "prune blocks": [*_PRUNE, "--pattern", "blocks:0.34"],
    "prune vocab": [*_PRUNE, "--pattern", "vocab", "--coverage", "0.98", "--pattern", "2:4", *_ROUND],
    "prune --tune": [*_PRUNE, "--pattern", "2:4", "--method", "wanda", "--tune", "--epochs", "2"],
}
_KEEPS_STATES = ("calibrate", "prune")  # commands with hidden states to go on from


@dataclass(frozen=True)
class Kill:
    """The end of a process: a signal at the n-th file operation, counted from 1."""

    signal: str
    operation: int
    when: str  # "before" or "after" the operation, or "torn": before it, a file that is to be synced being cut
    share: float  # of a torn file that is left


@dataclass
class Tally:
    """What came of all kills."""

    cases: int = 0  # commands that were killed at least once, and then finished
    kills: Counter[str] = field(default_factory=Counter)  # by "command SIGNAL"
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Return the rows of a table: a command, kills by each signal, all."""
        rows = ["| command | SIGKILL | SIGTERM | SIGINT | kills |", "|---|---|---|---|---|"]
        for command in (*COMMANDS, "all"):
            counts = [
                sum(self.kills[f"{each} {name}"] for each in COMMANDS if command in {each, "all"}) for name in SIGNALS
            ]
            rows.append(f"| {command} | {' | '.join(map(str, counts))} | {sum(counts)} |")
        return rows


def serve() -> None:
    """Import everything once, then run each command that stdin names in a fork of this process, and answer on stdout.

    A line in: {"words", "kill" or null, "states", "stderr"}. A line out: {"code", "operations"}.
    """
    import torch._dynamo  # noqa: F401, PLC0415 - what commands would import one by one
    from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401, PLC0415

    from langprune_cli.cli import app, session  # noqa: F401, PLC0415
    from langprune_cli.stages import apply, demo, evaluate, mask, plan, score, tuning_run, vocabulary  # noqa: F401, PLC0415

    for line in sys.stdin:
        run = json.loads(line)
        count = Path(run["stderr"] + ".count")
        pid = os.fork()
        if pid == 0:
            os._exit(_child(run, count))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        operations = int(count.read_text()) if count.is_file() else 0
        sys.stdout.write(json.dumps({"code": code, "operations": operations}) + "\n")
        sys.stdout.flush()


def _child(run: dict[str, Any], count: Path) -> int:
    """Run one command, killed or counted, and return its exit code."""
    from langprune_cli.__main__ import main  # noqa: PLC0415 - imported before the fork
    from langprune_cli.stages.calibrate import calibrate  # noqa: PLC0415
    from langprune_cli.stages.prune import prune  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the parent runs in the background
    os.dup2(os.open(run["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if run["states"]:
        for stage in (calibrate, prune):
            stage.__kwdefaults__["save_after_seconds"] = 0.0
    operations = _watch(Kill(**run["kill"]) if run["kill"] else None)
    code = main(run["words"])
    sys.stderr.flush()
    count.write_text(str(operations()))
    return code


def _watch(kill: Kill | None) -> Callable[[], int]:
    """Count the file operations of this process from now on, and end it at the one that `kill` names."""
    done = 0

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if kill is None or done != kill.operation:
                return real(*args, **kwargs)
            if kill.when == "torn" and name == "fsync":
                with suppress(OSError):  # a folder has no bytes to lose
                    os.ftruncate(args[0], int(os.fstat(args[0]).st_size * kill.share))
            if kill.when == "after":
                real(*args, **kwargs)
            os.kill(os.getpid(), getattr(signal, kill.signal))
            return None if kill.when == "after" else real(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, watched(name, getattr(os, name)))
    return lambda: done


class Harness:
    """A base workspace, what each command makes of it uninterrupted, and the process that runs commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text"
        self._whole: dict[str, tuple[dict[str, str], dict[bool, int]]] = {}
        self._case = 0
        _make_base(folder)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", "from tests.kill_harness import serve; serve()"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()  # the end of its input ends it

    def run(self, command: str, here: Path, kill: Kill | None, *, states: bool) -> tuple[int, int]:
        """Run a command on the workspace in `here`; return its exit code and the number of its file operations."""
        places = {"TEXT": str(self.text), "HERE": str(here)}
        words = [_replaced(word, places) for word in [*COMMANDS[command], "-w", "HERE/ws"]]
        order = {"words": words, "kill": kill and vars(kill), "states": states, "stderr": str(_stderr(here))}
        _stderr(here).with_suffix(".err.count").unlink(missing_ok=True)
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        return answer["code"], answer["operations"]

    def whole(self, command: str, *, states: bool) -> tuple[dict[str, str], int]:
        """Return the digests of what an uninterrupted run leaves, the same with states kept, and its operations."""
        if command not in self._whole:
            found, counts = [], {}
            for kept in (False, True) if command.startswith(_KEEPS_STATES) else (False,):
                with self._copy() as here:
                    code, counts[kept] = self.run(command, here, None, states=kept)
                    assert code == 0, _stderr(here).read_text()
                    found.append(tree(here))
            assert found[0] == found[-1], f"{command}: kept states change the result"
            self._whole[command] = found[0], counts
        files, counts = self._whole[command]
        return files, counts.get(states, counts[False])

    def case(self, command: str, draw: random.Random, tally: Tally, most: int) -> None:
        """Kill a command up to `most` times, let it finish, and compare."""
        states = command.startswith(_KEEPS_STATES) and draw.random() < 0.5
        expected, operations = self.whole(command, states=states)
        told = []
        with self._copy() as here:
            for _ in range(most):
                when = draw.choice(["before", "after", "torn"])
                kill = Kill(draw.choice(list(SIGNALS)), draw.randint(1, operations), when, draw.random())
                told.append(kill)
                code, _ = self.run(command, here, kill, states=states)
                if code == 0 or (
                    code == 1 and THERE in _said(here)[-1]
                ):  # what was left to do had fewer operations than that
                    break
                if code != SIGNALS[kill.signal] or (code == 130 and _said(here)[-1:] != [SAID]):
                    tally.failures.append(f"{command}: {told}: exit code {code}: {_said(here)}")
                tally.kills[f"{command} {kill.signal}"] += 1
            code, _ = self.run(command, here, None, states=states)
            made = tree(here)
            if command == "export" and code == 1 and THERE in _said(here)[-1]:  # killed when it was in its place
                code = 0
            if code != 0 or made != expected:
                differ = sorted(name for name in made.keys() | expected if made.get(name) != expected.get(name))
                tally.failures.append(f"{command}: {told}: exit code {code}, {differ} differ: {_said(here)}")
        tally.cases += 1

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """Yield a folder with a copy of the base workspace, always at the same path: some artifacts name theirs."""
        here = self.folder / "here"
        shutil.copytree(self.folder / "base", here / "ws", symlinks=True)
        try:
            yield here
        finally:
            shutil.rmtree(here)


def _replaced(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(name, place)
    return word


def _stderr(here: Path) -> Path:
    return here.with_suffix(".err")


def _said(here: Path) -> list[str]:
    return [line for line in _stderr(here).read_text().splitlines() if line]


def _make_base(folder: Path) -> None:
    """Make a pico model, texts, and a workspace in which the stages before those of COMMANDS have run."""
    save_pico("llama", folder / "pico", vocab_size=len(byte_level()), max_position_embeddings=64)
    byte_level().save_pretrained(folder / "pico")
    (folder / "text").mkdir()
    for place, language in enumerate(("uk", "en")):
        write_jsonl(folder / f"text/{language}.jsonl", documents(24)[place * 12 :][:12])
    where = ["-w", folder / "base"]
    for language in ("uk", "en"):
        text = ["--lang", language, "--data", folder / f"text/{language}.jsonl"]
        did("calibrate", "--model", folder / "pico", *text, *DRAW, *where)
        did("mask", "--stats", language, *where)
    did("apply", "--mask", "uk-wanda-0.5", *where)
    did("eval", "--lang", "en", "--data", folder / "text/en.jsonl", "--seqlen", SEQLEN, "--max-windows", "3", *where)


def run_kills(folder: Path, kills: int, seed: int) -> Tally:
    """Kill commands, one after the other, until there were so many kills in all."""
    tally, draw, begun = Tally(), random.Random(seed), time.monotonic()
    with Harness(folder) as harness:
        order: list[str] = []
        while (left := kills - tally.kills.total()) > 0:
            order = order or draw.sample(list(COMMANDS), len(COMMANDS))
            harness.case(order.pop(), draw, tally, min(left, draw.choice([1, 1, 2, 3])))
    tally.seconds = time.monotonic() - begun
    return tally


def main() -> int:
    """Print the tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_kills(Path(folder), options.kills, options.seed)
    total = f"{tally.kills.total()} kills of {tally.cases} runs in {tally.seconds:.0f} s, seed {options.seed}: "
    sys.stdout.write("\n".join([*tally.lines(), "", f"{total}{len(tally.failures)} failures", *tally.failures, ""]))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
