"""What tests of whole commands share: the command line run here or in processes of its own, and what a folder holds after it."""

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langprune_cli.__main__ import main

SEQLEN = "16"
DRAW = ("--nsamples", "6", "--seqlen", SEQLEN)  # what calibrations draw here


@dataclass(frozen=True)
class Done:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return stdout as the JSON document that --json prints."""
        return json.loads(self.out)


def langprune(*words: object) -> Done:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def did(*words: object) -> Done:
    """Run a command that must succeed."""
    done = langprune(*words)
    assert done.code == 0, done.err
    return done


def one_sentence(done: Done, code: int, says: str) -> None:
    """Check that a command ended with one sentence about what is wrong, and printed nothing else but it, as --json has it."""
    assert done.code == code, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.err.splitlines()[-1:] == errors, done.err
    assert re.search(says, errors[0]), errors[0]
    assert "Traceback" not in done.err
    assert "--debug" not in done.err  # what the generic answer to unforeseen errors says
    if done.out:
        assert done.json == {"schema": 1, "error": errors[0].removeprefix("error: "), "exit_code": code}


def tree(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, in folders that links lead to as well; logs, which hold times, aside."""
    found = {}
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "logs"]
        for name in files:
            path = Path(here, name)
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Return hash and time of change of every file below a folder."""
    return {name: (digest, (folder / name).stat().st_mtime_ns) for name, digest in tree(folder).items()}


def torchrun(*words: object, processes: int = 2) -> subprocess.Popen[str]:
    """Start a command in several processes that share its work."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    line += ["-m", "langprune_cli", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def ran(*words: object, processes: int = 2) -> str:
    """Run a command that must succeed in several processes, and return what it put out."""
    process = torchrun(*words, processes=processes)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def alone(*words: object) -> None:
    """Run a command that must succeed in one process of its own."""
    subprocess.run([sys.executable, "-m", "langprune_cli", *map(str, words)], check=True, capture_output=True)


def two(
    *of_each: list[object],
    folders: tuple[Path | None, Path | None] = (None, None),
    largest_file: int | None = None,
    program: tuple[str, str] = ("-m", "langprune_cli"),
) -> list[subprocess.CompletedProcess[str]]:
    """Run two processes with a command line each, without torchrun, which would end one for the other's exit code.

    folders: to run them in. largest_file: bytes of the largest file that the second one may write. program: what Python runs.
    """
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    env = {**os.environ, **place, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env | {"RANK": str(rank), "LOCAL_RANK": "0"},
            cwd=folders[rank],
        )
        for rank, words in enumerate(of_each)
    ]  # fmt: skip
    if largest_file is not None:  # it has not even begun to import
        resource.prlimit(running[1].pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    return [
        subprocess.CompletedProcess(each.args, each.returncode, out, err)
        for each in running
        for out, err in [each.communicate(timeout=240)]
    ]
