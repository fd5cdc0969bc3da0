"""What a command did, for later: `<workspace>/logs/<date>-<command>.log`, of the last 50 commands that had work to do."""

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from langprune_cli.version import __version__

FOLDER = "logs"
MOST_LOGS = 50
_PACKAGES = ("torch", "transformers", "safetensors", "datasets", "huggingface_hub")
# What looks like a token of the hub, and names and passwords in addresses.
_SECRET = re.compile(r"\bhf_\w{6,}|(?<=://)[^/\s@]+@")


_running: ContextVar["RunLog | None"] = ContextVar("_running", default=None)


def running_log() -> "RunLog | None":
    """Return the log of the command that is running, None where the library is used without one."""
    return _running.get()


@contextmanager
def logged(words: list[str]) -> Iterator[None]:
    """Log a command for as long as it runs, and how it ends."""
    log = RunLog(words)
    token = _running.set(log)
    try:
        yield
    except BaseException as error:
        log.end(f"ended by {type(error).__name__} ({error})")
        raise
    else:
        log.end("done")
    finally:
        _running.reset(token)


class RunLog:
    """The log of one command: nothing is on disk before `start`, so that a command that is refused leaves no trace."""

    def __init__(self, words: list[str]) -> None:
        """Take down the command line, the words behind `langprune`."""
        self.workspace: Path | None = None  # its folder; known once the options have been read
        self._command = next((word for word in words if not word.startswith("-")), "langprune")
        self._begun = time.monotonic()
        self._lines: list[str] = []
        self._path: Path | None = None
        self.write(f"langprune {shlex.join(words)}")
        self.write(f"in {Path.cwd()}, python {sys.version.split()[0]}, langprune {__version__}, {_versions()}")

    def write(self, text: str) -> None:
        """Add one line, with the time and without what must not be kept."""
        token = os.environ.get("HF_TOKEN")
        public = _SECRET.sub("...", text.replace(token, "...") if token else text)
        line = f"{_now().isoformat(timespec='milliseconds')} {' '.join(public.split())}"
        self._lines.append(line)
        if self._path:
            self._flush(self._path)

    def start(self) -> None:
        """Begin the file: there is work. A workspace that cannot be written gets none, and that is no error."""
        if self._path or self.workspace is None:
            return
        folder = self.workspace / FOLDER
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._path = self._free_path(folder)
            self._flush(self._path)
            for old in sorted(folder.glob("*.log"))[:-MOST_LOGS]:
                old.unlink()

    def end(self, how: str) -> None:
        """Write how the command ended and how long it took."""
        self.write(f"{how} after {time.monotonic() - self._begun:.1f} s")

    def _flush(self, path: Path) -> None:
        """Add the lines that are not in the file yet: whatever ends the process, they are there. A full disk loses them."""
        lines, self._lines = self._lines, []
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def _free_path(self, folder: Path) -> Path:
        """Return a path that no other command of the same second has taken."""
        stem, number = f"{_now():%Y%m%dT%H%M%S}-{self._command}", 1
        while True:
            path = folder / (f"{stem}.log" if number == 1 else f"{stem}-{number}.log")
            with suppress(FileExistsError):
                path.touch(exist_ok=False)
                return path
            number += 1


def _now() -> datetime:
    return datetime.now().astimezone()


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)
