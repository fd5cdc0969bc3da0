"""Sends the course of a training to a tracker of experiments, if its library is installed. No artifact depends on it."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from langprune_cli.defaults import Tracker
from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.store.building import Reporter

_PROJECT = "langprune"
Values = Mapping[str, float]
Log = Callable[[Values, int], None]  # takes values by name, and the step of the optimizer


@dataclass(frozen=True)
class LogTo:
    """Where to log."""

    tracker: Tracker
    folder: Path  # for logs that are files, one folder for each training


@dataclass(frozen=True)
class Tracked:
    """The training that is logged."""

    name: str
    key: str  # of the artifact: a run that goes on finds its log by it
    settings: Mapping[str, object]
    step: int  # that training goes on from, 0 at the start


class _Open(Protocol):
    """A log that was begun."""

    def log(self, values: dict[str, float], step: int) -> object: ...

    def finish(self) -> object: ...


def check_tracker(tracker: Tracker | None) -> None:
    """Raise LangpruneError for a tracker whose library is not installed."""
    try:
        if tracker:
            version(tracker)
    except PackageNotFoundError as error:
        raise LangpruneError(
            f"--log-to {tracker} needs the library {tracker}: pip install {tracker}, or leave out --log-to"
        ) from error


@contextmanager
def tracking(to: LogTo | None, training: Tracked, reporter: Reporter) -> Iterator[Log]:
    """Yield what logs values; without `to` it does nothing. What goes wrong later ends the log, not the training.

    Raises LangpruneError if the log cannot begin.
    """
    logs = [_begun(to.tracker, training, to.folder / training.name)] if to else []

    def log(values: Values, step: int) -> None:
        for each in list(logs):
            try:
                each.log(dict(values), step)
            except Exception as error:  # noqa: BLE001 - of any library
                logs.clear()
                reporter.note(f"The log took no more values at step {step} ({first_line(error)}); training goes on.")

    try:
        yield log
    finally:
        with suppress(Exception), redirect_stdout(sys.stderr):
            for each in logs:
                each.finish()


def _begun(tracker: Tracker, training: Tracked, folder: Path) -> _Open:
    begin = {"trackio": _trackio, "wandb": _wandb, "tensorboard": _TensorBoard}[tracker]
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            return begin(training, folder)
    except Exception as error:
        raise LangpruneError(
            f"--log-to {tracker} cannot begin ({first_line(error)}): put that right, or leave out --log-to"
        ) from error


def _trackio(training: Tracked, _folder: Path) -> _Open:
    resume = "allow" if training.step else "never"
    opened: _Open = import_module("trackio").init(
        project=_PROJECT, name=training.name, config=dict(training.settings), resume=resume
    )
    return opened


def _wandb(training: Tracked, folder: Path) -> _Open:
    folder.mkdir(parents=True, exist_ok=True)
    opened: _Open = import_module("wandb").init(
        project=_PROJECT, name=training.name, config=dict(training.settings), id=training.key[:16],
        resume="allow" if training.step else None, dir=folder,
    )  # fmt: skip
    return opened


class _TensorBoard:
    """A log in files of a folder, which `tensorboard --logdir` shows."""

    def __init__(self, training: Tracked, folder: Path) -> None:
        after = training.step + 1 if training.step else 0  # what was logged from there on is hidden
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(folder, purge_step=after)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()
