"""Commands that are killed at random moments and given again leave what uninterrupted ones leave, and nothing else."""

from pathlib import Path

import pytest

from tests.kill_harness import COMMANDS, run_kills


def test_twenty_kills(tmp_path: Path) -> None:
    tally = run_kills(tmp_path, 20, seed=1)
    assert tally.failures == []
    assert tally.kills.total() == 20


@pytest.mark.slow
def test_two_hundred_kills_of_every_command(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("markexpr") != "slow":
        pytest.skip("takes minutes: run it with -m slow")
    tally = run_kills(tmp_path, 200, seed=0)
    assert tally.failures == []
    assert {name.rpartition(" ")[0] for name in tally.kills} == COMMANDS.keys()
