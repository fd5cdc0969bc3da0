"""A process that has imported what the tests of the hub need, and runs each of their scripts in a fork of itself.

`huggingface_hub` and `datasets` read their settings when they are imported. All tests of a session therefore share one
address of the hub and one home for the caches, which is emptied before each test. Importing takes seconds, a fork none.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_LONGEST_SECONDS = 120
# A fork has these in time: they are read when they are used.
LATE = {"HF_TOKEN", "LANGPRUNE_CACHE"}


def serve() -> None:
    """Import everything once, then run the scripts that stdin names, and answer with their exit codes on stdout.

    A line in: {"script", "arguments", "cwd", "env", "out" and "err": files to write to}.
    """
    import datasets  # noqa: F401, PLC0415 - what the scripts would import one by one
    from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401, PLC0415

    from langprune_cli.cli import app  # noqa: F401, PLC0415
    from langprune_cli.stages.calibrate import calibrate  # noqa: F401, PLC0415
    from langprune_cli.text import windows  # noqa: F401, PLC0415
    from tests.support.text import text_corpora  # noqa: F401, PLC0415

    for line in sys.stdin:
        order = json.loads(line)
        if (child := os.fork()) == 0:
            os._exit(_run(order))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


def _run(order: dict[str, Any]) -> int:
    """Run one script as `python -c` would, and return its exit code."""
    signal.alarm(_LONGEST_SECONDS)
    for path, number in ((os.devnull, 0), (order["out"], 1), (order["err"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv = ["-c", *order["arguments"]]
    code = 0
    try:
        exec(compile(order["script"], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001 - what ends a script is shown, as Python shows it
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    return code


class HubProcess:
    """The address and the home that all tests of a session share, and the process that knows both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "place" / "home"
        # Bound for as long as the session lasts, and never listened on: nobody else is given this port between two hubs.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.communicate()  # the end of its input ends it
        self._held.close()

    def empty(self) -> Path:
        """Empty the home and the folder that it lies in, and return it."""
        shutil.rmtree(self.home.parent, ignore_errors=True)
        self.home.mkdir(parents=True)
        return self.home

    def run(
        self, script: str, arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str], late: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code in a fork; env: of the process, the same for all of a session, late: of this script alone."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.support.hub.hub_process"]
            self._process = subprocess.Popen(
                command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder
            )
        out, err = self.folder / "out", self.folder / "err"
        places = {"cwd": str(cwd), "out": str(out), "err": str(err)}
        order = {"script": script, "arguments": arguments, "env": dict(late), **places}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(script, code, out.read_text(), err.read_text())


if __name__ == "__main__":
    serve()
