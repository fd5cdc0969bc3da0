"""Hostile input to every reader for as long as asked, and a tally.

python -m tests.fuzz --seconds 300
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hostile import Target, attempt
from tests.hostile_readers import TARGETS

_AT_ONCE = 50  # examples of one seed


def fuzz(target: Target, seconds: float, first_seed: int) -> tuple[int, int, list[str]]:
    """Feed examples for so long; return how many there were, how many were accepted, and a traceback for each crash."""
    counts = [0, 0]
    crashes: list[str] = []
    end, number = time.monotonic() + seconds, first_seed
    while time.monotonic() < end:
        _batch(target, number, counts, crashes)()
        number += 1
    return counts[0], counts[1], crashes


def _batch(target: Target, number: int, counts: list[int], crashes: list[str]) -> Callable[[], None]:
    """Return a test of the examples of one seed; a crash is kept, and the next example fed."""

    @seed(number)
    @settings(
        max_examples=_AT_ONCE, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    @given(example=target.examples)
    def feed(example: Any) -> None:
        counts[0] += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                counts[1] += attempt(target, Path(folder), example)
            except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
                crashes.append(f"seed {number}: {example!r:.300}\n{traceback.format_exc()}")

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
        fed, accepted, crashes = fuzz(TARGETS[name], options.seconds / len(names), options.seed)
        rows.append(f"| {name} | {fed:,} | {accepted:,} | {len(crashes)} | {time.monotonic() - begun:.0f} |")
        failures += crashes[:5]  # enough of each to go by
        broken += len(crashes)
        inputs += fed
    head = ["| reader | inputs | accepted | crashes | seconds |", "|---|---|---|---|---|"]
    total = f"{inputs:,} inputs, {broken:,} crashes, seed {options.seed}"
    sys.stdout.write("\n".join([*head, *rows, "", total, *failures, ""]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
