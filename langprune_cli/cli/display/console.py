"""Output for the user: progress and notes on stderr, results on stdout."""

import atexit
import json
import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from langprune_cli.cli.display.log import running_log
from langprune_cli.cli.display.progress import Bar
from langprune_cli.errors import printable, printable_json

_PIPED_WIDTH = 160  # a pipe has no width; rich would cut names in narrower output
_QUIET_SECONDS = 3.0  # between plain progress lines, at least
_QUIET_SHARE = 0.05  # of the time passed: a run of hours has a hundred lines, not thousands


class ConsoleReporter:
    """Shows notes, and progress as a bar on a terminal or as plain lines in a pipe."""

    def __init__(self) -> None:
        self._console = Console(
            stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else _PIPED_WIDTH
        )
        self._bar: Bar | None = None
        self._what = ""
        self._blocks = 0
        self._total = 0
        self._done = 0
        self._block = 0
        self._begun = self._said = 0.0

    def note(self, text: str) -> None:
        """Show one sentence."""
        if log := running_log():
            log.write(printable(text))
        self._console.print(_shown(text), style="dim" if self._console.is_terminal else "", soft_wrap=True)

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        """Start the progress of a pass of `tokens` tokens through `blocks` blocks; if one is 0, count the other."""
        self.end()
        if log := running_log():
            log.start()
            log.write(f"{what}: {blocks} blocks, {tokens:,} tokens" if tokens else f"{what}: {blocks} blocks")
        self._what, self._blocks, self._total, self._done, self._block = what, blocks, tokens, 0, 0
        self._begun = self._said = time.monotonic()
        if self._console.is_terminal:
            atexit.register(self.end)  # an error or Ctrl-C must not leave the terminal without its cursor
            self._bar = Bar(printable(what), tokens or blocks, blocks, console=self._console)
            self._bar.start()

    def tick(self, block: int, tokens: int) -> None:
        """Report that `tokens` more tokens went through `block`, counted from 0."""
        now = time.monotonic()
        self._done += tokens or (0 if self._total else 1)
        rate = self._done / max(now - self._begun, 1e-9)
        speed = f"{rate:,.0f} tokens/s" if self._total else ""
        if self._bar:
            self._bar.show(self._done, block + 1, speed)
        elif (block != self._block or not self._blocks) and self._is_time(now):
            left = ((self._total or self._blocks) - self._done) / rate
            place = f"{self._what}: block {block} of {self._blocks}" if self._blocks else self._what
            parts = [place, speed, f"{left:.0f} s left"]
            self.note(", ".join(filter(None, parts)))
            self._said = now
        self._block = block

    def _is_time(self, now: float) -> bool:
        """Return whether to say how far the pass is, in a pipe."""
        return now - self._said >= max(_QUIET_SECONDS, _QUIET_SHARE * (now - self._begun))

    def end(self) -> None:
        """End the progress, if any."""
        if self._bar:
            self._bar.stop()
        self._bar = None


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(printable_json(json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def print_line(text: str) -> None:
    """Print one line of a result on stdout."""
    sys.stdout.write(printable(text) + "\n")


def _shown(text: str) -> str:
    """Return a text for rich, without markup or terminal commands."""
    return escape(printable(text))
