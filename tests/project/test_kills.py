"""Commands that are killed at random moments and given again leave what uninterrupted ones leave, and nothing else."""

from pathlib import Path

import pytest

from tests.harnesses.kill_harness import COMMANDS, Harness, Made, is_swept, run_kills
from tests.harnesses.kill_server import POWER, Kill


@pytest.mark.slow
def test_what_a_command_said_is_done_is_there_after_a_power_cut(tmp_path: Path) -> None:
    at_the_end = 1_000_000
    with Harness(tmp_path) as harness:
        for command in ("export", "apply --out", "mask", "rm"):
            expected, _ = harness.whole(command, states=False)
            for share in (0.1, 0.4, 0.7):
                with harness.copy() as here:
                    harness.run(command, here, Kill(POWER, at_the_end, "before", share, 0), states=False)
                    assert Made.of(here).unlike(expected, but_for=is_swept) == [], command


@pytest.mark.slow
def test_kills_of_every_command(tmp_path: Path) -> None:
    tally = run_kills(tmp_path, 100, seed=0)
    assert tally.failures == []
    assert tally.kills.total() == 100
    assert {name.rpartition(" ")[0] for name in tally.kills} == COMMANDS.keys()
