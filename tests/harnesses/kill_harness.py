"""Every stage killed at random moments, run again, and compared with a run that was not interrupted, byte by byte.

    python -m tests.harnesses.kill_harness --kills 200

A kill comes at a file operation of the command, before or after it: between two of them nothing on the disk changes. A
file that was about to be synced may be cut at any byte first. A power cut takes with it what was not synced, as far as
chance has it (power_cut.py): bytes of files, names in folders, whole folders. The command is then given again, and
may be killed once more; in the end every file has to be what an uninterrupted run leaves, and no other file may be there.
Where the power is cut when a command has just ended, all of it has to be there without the command being given again.

Of two processes that share a run, one is killed, at a file operation or where the two meet; the other has to end by itself.
Where one process finishes what two began, sums are rounded otherwise: then files, keys and hashes have to be right.
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from langprune_cli.store.manifest import read_manifest
from langprune_cli.store.temporary import TEMPORARY
from langprune_cli.store.verifying import places, verify
from langprune_cli.store.workspace import Workspace
from tests.harnesses.kill_server import POWER, Kill
from tests.support.command import DRAW, SEQLEN, did, tree
from tests.support.paths import REPOSITORY
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level, documents, write_jsonl

SAID = "interrupted: run the same command again, it goes on where it stopped"
LOST = "error: another process of this run ended ("
# What these say where a killed one had come to its end: the folder is whole already, the artifact is gone.
DONE_BEFORE = {"export": "exists and is not an empty folder", "rm": "no models artifact is called"}
SIGNALS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "SIGINT": 130}  # signal -> exit code
ENDS = SIGNALS | {POWER: -signal.SIGKILL}
UK = ["--lang", "uk", "--data", "TEXT/uk.jsonl"]
_PRUNE = ["prune", *UK, *DRAW, "--max-shard-size", "70KB", "--name", "new"]
_ROUND = ["--round-to", "8"]
_RECOVER = ["recover", "--model", "uk-wanda-0.5", *UK, "--tokens", "1k", "--batch-tokens", "64", "--seqlen", "16",
            "--learning-rate", "3e-3", "--max-shard-size", "90KB", "--name", "new"]  # fmt: skip
# In each, TEXT is a folder of texts and HERE one that holds the workspace and whatever else the command writes.
COMMANDS: dict[str, list[str]] = {
    "calibrate": ["calibrate", *UK, *DRAW, "--seed", "3", "--collect", "hessian", "--name", "new"],
    "calibrate --shard": ["calibrate", *UK, *DRAW, "--shard", "1/2", "--collect", "hessian", "--name", "new"],
    "calibrate tokens": ["calibrate", *UK, "--collect", "tokens", "--name", "new"],
    "combine stats": ["combine", "stats", "uk", "en", "--name", "new"],
    "score": ["score", "--stats", "uk", "--method", "ria", "--name", "new"],
    "mask": ["mask", "--stats", "uk", "--pattern", "4:8", "--name", "new"],
    "combine masks": ["combine", "masks", "uk-wanda-0.5", "en-wanda-0.5", "--how", "and", "--name", "new"],
    "apply": ["apply", "--mask", "uk-wanda-0.5", "--max-shard-size", "90KB", "--name", "new"],
    "apply --out": ["apply", "--mask", "uk-wanda-0.5", "--out", "HERE/new"],
    "eval": ["eval", *UK, "--seqlen", "24", "--name", "new"],
    "export": ["export", "--model", "uk-wanda-0.5", "--out", "HERE/new", "--with-mask"],
    "rm": ["rm", "models/uk-wanda-0.5"],
    "prune weights": [*_PRUNE, "--pattern", "2:4"],
    "prune channels": [*_PRUNE, "--pattern", "channels:0.34", "--pattern", "kv-groups:0.5", *_ROUND],
    "prune blocks": [*_PRUNE, "--pattern", "blocks:0.34"],
    "prune vocab": [*_PRUNE, "--pattern", "vocab", "--coverage", "0.98", "--pattern", "2:4", *_ROUND],
    "prune --tune": [*_PRUNE, "--pattern", "2:4", "--method", "wanda", "--tune", "--epochs", "2"],
    "recover": _RECOVER,
    "recover --online": [*_RECOVER, "--online"],
}
_TWO = ", two processes"
COMMANDS |= {f"{name}{_TWO}": COMMANDS[name] for name in ("calibrate", "prune weights", "prune channels", "recover")}
# Commands with hidden states to go on from, where one process has them all, and with a state of training.
_KEEPS_HIDDEN, _KEEPS_TRAINING = ("calibrate", "prune"), "recover"


@dataclass
class Tally:
    """What came of all kills."""

    cases: int = 0  # commands that were killed at least once, and then finished
    kills: Counter[str] = field(default_factory=Counter)  # by "command SIGNAL"
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Return the rows of a table: a command, kills by each signal, all."""
        rows = [f"| command | {' | '.join(ENDS)} | kills |", "|---|---|---|---|---|---|"]
        killed = [command for command in COMMANDS if any(self.kills[f"{command} {name}"] for name in ENDS)]
        for command in (*killed, "all"):
            counts = [sum(self.kills[f"{each} {name}"] for each in killed if command in {each, "all"}) for name in ENDS]
            rows.append(f"| {command} | {' | '.join(map(str, counts))} | {sum(counts)} |")
        return rows


class Harness:
    """A base workspace, what each command makes of it uninterrupted, and the process that runs commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text"
        self._whole: dict[str, tuple[Made, dict[bool, list[int]]]] = {}
        _make_base(folder)
        # What gloo has to say of a process that is gone, langprune says.
        quiet = {"HF_HUB_OFFLINE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        environment = os.environ | quiet | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.harnesses.kill_server"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()  # the end of its input ends it

    def run(
        self, command: str, here: Path, kill: Kill | None, *, states: bool, alone: bool = False
    ) -> tuple[list[int], list[int]]:
        """Run a command on the workspace in `here`; return exit codes and numbers of operations, by rank."""
        words = [_replaced(word, {"TEXT": self.text, "HERE": here}) for word in [*COMMANDS[command], "-w", "HERE/ws"]]
        stderr = [str(_stderr(here, rank)) for rank in range(2 if command.endswith(_TWO) and not alone else 1)]
        order = {"words": words, "kill": kill and vars(kill), "states": states, "here": str(here), "stderr": stderr}
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        return answer["codes"], answer["operations"]

    def whole(self, command: str, *, states: bool) -> tuple["Made", list[int]]:
        """Return what an uninterrupted run leaves, the same with states kept, and its operations by rank."""
        if command not in self._whole:
            found, counts = [], {}
            for kept in (False, True) if _keeps_states(command) else (False,):
                with self.copy() as here:
                    codes, counts[kept] = self.run(command, here, None, states=kept)
                    assert not any(codes), _said(here)
                    found.append(Made.of(here))
            assert found[0] == found[-1], f"{command}: kept states change the result"
            self._whole[command] = found[0], counts
        made, counts = self._whole[command]
        return made, counts[states]

    def case(self, command: str, draw: random.Random, tally: Tally, most: int) -> None:
        """Kill a command up to `most` times, let it finish, and compare."""
        states = _keeps_states(command) and draw.random() < 0.5
        expected, operations = self.whole(command, states=states)
        told = []
        with self.copy() as here:
            for _ in range(most):
                when, rank = draw.choice(["before", "after", "torn"]), draw.randrange(len(operations))
                # Which of two processes wrote what, before a power cut, nobody sees.
                how = draw.choice(list(ENDS if len(operations) == 1 else SIGNALS))
                last = operations[rank] + (how == POWER)
                kill = Kill(how, draw.randint(1, last), when, draw.random(), rank)
                told.append(kill)
                codes, ended = self.run(command, here, kill, states=states)
                if not any(codes) or _was_done(command, codes, here):  # there were fewer operations left than that
                    break
                if not _ended_well(kill, codes, here):
                    tally.failures.append(f"{command}: {told}: exit codes {codes}: {_said(here)}")
                tally.kills[f"{command} {kill.signal}"] += 1
                if how == POWER and ended[rank] and (lost := Made.of(here).unlike(expected, but_for=is_swept)):
                    tally.failures.append(f"{command}: {told}: when it had ended, {lost} were lost")
            alone = len(operations) > 1 and draw.random() < 0.25
            codes, _ = self.run(command, here, None, states=states, alone=alone)
            if _was_done(command, codes, here):
                codes = [0]
            made = Made.of(here)
            wrong = made.unlike(expected, but_for_rounding=alone)
            if any(codes) or wrong:
                tally.failures.append(f"{command}: {told}: exit codes {codes}, {wrong} differ: {_said(here)}")
        tally.cases += 1

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """Yield a folder with a copy of the base workspace, always at the same path: some artifacts name theirs."""
        here = self.folder / "here"
        shutil.copytree(self.folder / "base", here / "ws", symlinks=True)
        try:
            yield here
        finally:
            shutil.rmtree(here)


@dataclass(frozen=True)
class Made:
    """What is on the disk after a command."""

    files: dict[str, str]  # sha256
    keys: dict[str, str]  # of artifacts that are complete
    damaged: list[str]  # files that are not as their manifests have them

    @classmethod
    def of(cls, here: Path) -> "Made":
        found = places(Workspace(here / "ws"))
        damages = [damage for label, folder in found.items() for damage in verify(label, folder).damages]
        manifests = {label: read_manifest(folder) for label, folder in found.items()} if not damages else {}
        return cls(
            tree(here),
            {label: each.key for label, each in manifests.items() if each.complete},
            [str(damage.path) for damage in damages],
        )

    def unlike(
        self, other: "Made", *, but_for_rounding: bool = False, but_for: Callable[[str], bool] = lambda _: False
    ) -> list[str]:
        """Return the files and artifacts that are not the other's, or by their names and keys only."""
        mine, others = (each.keys if but_for_rounding else each.files for each in (self, other))
        differ = {name for name in mine.keys() | others if mine.get(name) != others.get(name)}
        differ |= (self.files.keys() ^ other.files) | set(self.damaged)
        return sorted(name for name in differ if not but_for(name))


def is_swept(name: str) -> bool:
    """Return whether the next command deletes a file: a lock's that locks nothing, or one of a deletion that was undone."""
    return name.endswith("lock") or TEMPORARY in name


def _keeps_states(command: str) -> bool:
    alone = command.startswith(_KEEPS_HIDDEN) and not command.endswith(_TWO)
    return alone or command.startswith(_KEEPS_TRAINING)


def _ended_well(kill: Kill, codes: list[int], here: Path) -> bool:
    """Return whether a killed process ended as the signal has it, and the other, if any, by itself and with a word."""
    *others, said = (_said(here, rank) for rank in ([1 - kill.rank] if len(codes) > 1 else []) + [kill.rank])
    well = codes[kill.rank] == ENDS[kill.signal] and (kill.signal != "SIGINT" or said[-1:] == [SAID])
    for lines in others:
        errors = [line for line in lines if line.startswith(("error:", "Traceback"))]
        code = codes[1 - kill.rank]  # 0 where it had nothing left to do with the other
        # One sentence comes from one process: the first says that the other is gone, unless that one was interrupted and said so.
        lost = code == 1 and kill.rank == 1 and kill.signal != "SIGINT"
        well = well and code in {0, 1} and len(errors) == lost and all(line.startswith(LOST) for line in errors)
    return well


def _was_done(command: str, codes: list[int], here: Path) -> bool:
    """Return whether a command found that a killed one had done all of its work."""
    return codes == [1] and command in DONE_BEFORE and DONE_BEFORE[command] in _said(here)[-1]


def _replaced(word: str, by: dict[str, Path]) -> str:
    for name, place in by.items():
        word = word.replace(name, str(place))
    return word


def _stderr(here: Path, rank: int = 0) -> Path:
    return here.with_suffix(f".err{rank}")


def _said(here: Path, rank: int = 0) -> list[str]:
    return [line for line in _stderr(here, rank).read_text().splitlines() if line]


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


def run_kills(folder: Path, kills: int, seed: int, only: str = "") -> Tally:
    """Kill commands, one after the other, until there were so many kills in all. only: of the commands, how some begin."""
    commands = [command for command in COMMANDS if command.startswith(only)]
    tally, draw, begun = Tally(), random.Random(seed), time.monotonic()
    with Harness(folder) as harness:
        order: list[str] = []
        while (left := kills - tally.kills.total()) > 0:
            order = order or draw.sample(commands, len(commands))
            harness.case(order.pop(), draw, tally, min(left, draw.choice([1, 1, 2, 3])))
    tally.seconds = time.monotonic() - begun
    return tally


def main() -> int:
    """Print the tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kill only commands that begin with this, such as recover")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_kills(Path(folder), options.kills, options.seed, options.only)
    total = f"{tally.kills.total()} kills of {tally.cases} runs in {tally.seconds:.0f} s, seed {options.seed}: "
    sys.stdout.write("\n".join([*tally.lines(), "", f"{total}{len(tally.failures)} failures", *tally.failures, ""]))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
