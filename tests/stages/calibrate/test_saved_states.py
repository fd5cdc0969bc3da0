"""A calibration that crashed goes on from the hidden states it had saved, to the same statistics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.models.streamed import Block
from langprune_cli.stages.calibrate.calibrate import CalibrationSettings, calibrate
from langprune_cli.store.artifact import SCRATCH
from langprune_cli.store.building import Silent
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming import resuming
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import ModelChoice
from langprune_cli.streaming.opened import open_model
from langprune_cli.streaming.walk import HiddenStates
from langprune_cli.types import TextSpec
from tests.support.command import tree


class Crash(BaseException):
    """Stands for a crash where the process must live on to be looked at."""


def calibrated(folder: Path, model: Path, text: Path, batch_tokens: int = 32) -> None:
    here = Workspace(folder)
    opened = open_model(here, ModelChoice(str(model)), Compute(batch_tokens=batch_tokens), Silent())
    spec = TextSpec("uk", str(text / "uk.jsonl"), "uk")
    calibrate(here, opened, [spec], CalibrationSettings(6, 16), Silent())


@pytest.fixture(autouse=True)
def _always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the states after every block, however little time it took."""
    monkeypatch.setattr(resuming, "SAVE_AFTER_SECONDS", 0.0)


@pytest.fixture
def stopped(tmp_path: Path, pico_model: Path, pico_text: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a workspace whose calibration ended when the states after block 1 were saved, and block 2 was to run."""
    forward = HiddenStates.forward

    def crash(self: HiddenStates, block: Block, **options: Any) -> None:
        if block.index == 2:
            raise Crash
        forward(self, block, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HiddenStates, "forward", crash)
        with pytest.raises(Crash):
            calibrated(tmp_path / "ws", pico_model, pico_text)
    assert (tmp_path / "ws/stats/uk" / SCRATCH).is_file()
    return tmp_path / "ws"


@pytest.fixture
def blocks_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note which blocks are run."""
    run: list[int] = []
    forward = HiddenStates.forward

    def noted(self: HiddenStates, block: Block, **options: Any) -> None:
        run.append(block.index)
        forward(self, block, **options)

    monkeypatch.setattr(HiddenStates, "forward", noted)
    return run


def test_saved_states_spare_the_blocks_before(
    stopped: Path, blocks_run: list[int], made: Path, pico_model: Path, pico_text: Path
) -> None:
    calibrated(stopped, pico_model, pico_text)
    assert blocks_run == [2]
    assert tree(stopped / "stats/uk").keys() == tree(made / "stats/uk").keys()
    blocks_run.clear()
    calibrated(stopped.with_name("other"), pico_model, pico_text)
    assert blocks_run == [0, 1, 2]
    assert tree(stopped / "stats") == tree(stopped.with_name("other") / "stats")


@pytest.mark.parametrize("batch_tokens", [16, 64, 2048])
def test_saved_states_in_other_batches(
    stopped: Path, blocks_run: list[int], pico_model: Path, pico_text: Path, batch_tokens: int
) -> None:
    """The batch size is no part of the key; all windows must count whatever it was when the states were saved."""
    calibrated(stopped, pico_model, pico_text, batch_tokens)
    assert blocks_run == [2]
    calibrated(stopped.with_name("other"), pico_model, pico_text)
    tokens = [_tokens(folder / "stats/uk/block-002.safetensors") for folder in (stopped, stopped.with_name("other"))]
    assert tokens[0] == tokens[1] == [96] * 4


def _tokens(path: Path) -> list[int]:
    from safetensors.torch import load_file  # noqa: PLC0415

    return [int(value) for name, value in load_file(path).items() if name.endswith("/tokens")]


@pytest.mark.parametrize("damage", ["states", "part"])
def test_damage_that_the_crash_left_is_made_good(
    stopped: Path, blocks_run: list[int], pico_model: Path, pico_text: Path, damage: str
) -> None:
    path = stopped / "stats/uk" / (SCRATCH if damage == "states" else "block-001.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    calibrated(stopped, pico_model, pico_text)
    assert blocks_run == [0, 1, 2]
    calibrated(stopped.with_name("other"), pico_model, pico_text)
    assert tree(stopped / "stats") == tree(stopped.with_name("other") / "stats")
