"""Hostile input to every reader for as long as asked, and a tally.

python -m tests.harnesses.fuzz --seconds 300
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.harnesses.hostile import Target, attempt
from tests.harnesses.hostile_readers import TARGETS

_AT_ONCE = 50  # examples of one seed


@dataclass
class Counts:
    """What became of the examples of one reader."""

    fed: int = 0
    accepted: int = 0
    slowest: float = 0.0  # seconds of the example that took longest


def fuzz(target: Target, seconds: float, first_seed: int) -> tuple["Counts", list[str]]:
    """Feed examples for so long; return the counts, and a traceback for each crash."""
    counts = Counts()
    crashes: list[str] = []
    end, number = time.monotonic() + seconds, first_seed
    while time.monotonic() < end:
        _batch(target, number, counts, crashes)()
        number += 1
    return counts, crashes


def _batch(target: Target, number: int, counts: "Counts", crashes: list[str]) -> Callable[[], None]:
    """Return a test of the examples of one seed; a crash is kept, and the next example fed."""

    @seed(number)
    @settings(
        max_examples=_AT_ONCE, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    @given(example=target.examples)
    def feed(example: Any) -> None:
        counts.fed += 1
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                counts.accepted += attempt(target, Path(folder), example)
            except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
                crashes.append(f"seed {number}: {example!r:.300}\n{traceback.format_exc()}")
        counts.slowest = max(counts.slowest, time.monotonic() - begun)

    return feed


def main() -> int:
    """Print the tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(TARGETS), action="append", help="a target; all if left out")
    options = parser.parse_args()
    names = options.only or list(TARGETS)
    rows, failures, inputs, broken = [], [], 0, 0
    for name in names:
        begun = time.monotonic()
        counts, crashes = fuzz(TARGETS[name], options.seconds / len(names), options.seed)
        seconds = time.monotonic() - begun
        rows.append(
            f"| {name} | {counts.fed:,} | {counts.accepted:,} | {len(crashes)} | {counts.slowest:.1f} | {seconds:.0f} |"
        )
        failures += crashes[:5]  # enough of each to go by
        broken += len(crashes)
        inputs += counts.fed
    head = ["| reader | inputs | accepted | crashes | slowest, s | seconds |", "|---|---|---|---|---|---|"]
    total = f"{inputs:,} inputs, {broken:,} crashes, seed {options.seed}"
    sys.stdout.write("\n".join([*head, *rows, "", total, *failures, ""]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
