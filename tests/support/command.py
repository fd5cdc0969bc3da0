"""What tests of whole commands share: the command line run in this process, and what a folder holds after it."""

import contextlib
import hashlib
import io
import json
import os
import re
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
