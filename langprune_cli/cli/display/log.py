"""Logs of commands: `<workspace>/logs/<date>-<command>.log`, for the last 50 commands with work to do."""

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
# Likely tokens of the hub, and names and passwords in addresses.
_SECRET = re.compile(r"\bhf_\w{6,}|(?<=://)[^/\s@]+@")


_running: ContextVar["RunLog | None"] = ContextVar("_running", default=None)


def running_log() -> "RunLog | None":
    """Return the log of the running command, None if the library runs without one."""
    return _running.get()


@contextmanager
def logged(words: list[str]) -> Iterator[None]:
    """Log a command while it runs, and its end."""
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
    """The log of one command. Nothing is on disk before `start`, so a refused command leaves no trace."""

    def __init__(self, words: list[str]) -> None:
        """Record the command line, the words after `langprune`."""
        self.workspace: Path | None = None  # its folder; known after parsing the options
        self._command = next((word for word in words if not word.startswith("-")), "langprune")
        self._begun = time.monotonic()
        self._lines: list[str] = []
        self._path: Path | None = None
        self.write(f"langprune {shlex.join(words)}")
        self.write(f"in {Path.cwd()}, python {sys.version.split()[0]}, langprune {__version__}, {_versions()}")

    def write(self, text: str) -> None:
        """Add one line with the time, without secrets."""
        token = os.environ.get("HF_TOKEN")
        public = _SECRET.sub("...", text.replace(token, "...") if token else text)
        line = f"{_now().isoformat(timespec='milliseconds')} {' '.join(public.split())}"
        self._lines.append(line)
        if self._path:
            self._flush(self._path)

    def start(self) -> None:
        """Begin the file when work begins; an unwritable workspace gets none, without an error."""
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
        """Write the command's end and duration."""
        self.write(f"{how} after {time.monotonic() - self._begun:.1f} s")

    def _flush(self, path: Path) -> None:
        """Write all new lines to the file now, so that they survive any end of the process. A full disk loses them."""
        lines, self._lines = self._lines, []
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def _free_path(self, folder: Path) -> Path:
        """Return a path that no other command of the same second uses."""
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
