"""What `eval` says of a model that pruning ruined: what would help that was not done already."""

from pathlib import Path
from typing import Any

import pytest

from langprune_cli.stages.evaluate.ruined import ruined_notes
from langprune_cli.store.manifest import Manifest
from tests.support.command import did

TEXT = {"language": "uk"}


def manifest(kind: str, params: dict[str, Any], about: dict[str, Any]) -> Manifest:
    return Manifest(kind=kind, inputs={}, params=params, about=about, environment={}, key="", parts={}, complete=True)


def row(text: str, ppl: float, mask: str | None = None, *, significant: bool = True) -> dict[str, Any]:
    return {"text": text, "language": text, "model": "m", "mask": mask, "ppl": ppl, "significant": significant}


@pytest.mark.parametrize(("method", "pattern", "about", "says", "not_said"), [
    ("wanda", "2:4", {}, ["whose default", "langprune recover", "--pattern channels:0.1 instead of 2:4"], "removed"),
    ("ria", "unstructured", {"recovered": {}}, ["far less than ria", "less than 70% removed"], "langprune recover"),
    ("flap", "channels:0.7", {}, ["--update least-squares", "langprune recover", "less than 70% removed"], "langprune prune"),
    ("frequency", "vocab", {}, ["--coverage"], "langprune recover"),
])  # fmt: skip
def test_what_helps_is_what_was_not_done(
    method: str, pattern: str, about: dict[str, Any], says: list[str], not_said: str
) -> None:
    mask = {"method": method, "pattern": pattern, "sparsity": 0.7}
    made = manifest("masks", mask, {"text": TEXT, **about})
    (note,) = ruined_notes([row("uk", 20.0), row("uk", 31.0, "x")], {"x": made})
    assert note.startswith("x is ruined: its ppl changed by half or more (uk +55%).")
    assert all(each in note for each in says)
    assert not_said not in note


def test_nothing_is_said_of_less_and_noise_is_said_to_be_possible() -> None:
    made = {"x": manifest("masks", {"method": "wanda", "pattern": "2:4", "sparsity": 0.5}, {"text": TEXT})}
    assert not list(ruined_notes([row("uk", 20.0), row("uk", 29.9, "x")], made))
    (said,) = ruined_notes([row("uk", 20.0), row("uk", 31.0, "x", significant=False)], made)
    assert said.startswith("x seems ruined, on too few windows to be sure: its ppl changed by half or more (uk +55%).")


def test_another_language_than_it_was_calibrated_on() -> None:
    made = {"x": manifest("models", {"update": "pcg"}, {"text": TEXT, "mask": {"method": "admm", "pattern": "2:4"}})}
    rows = [row("uk", 20.0), row("uk", 22.0, "x"), row("en", 20.0), row("en", 70.0, "x")]
    (note,) = ruined_notes(rows, made)
    assert "(en +250%). It was calibrated on uk and not on en: calibrate on both" in note
    assert "--lang uk:64 --lang en:64" in note
    assert "langprune prune" not in note  # it was made so


def test_eval_and_mask_say_it() -> None:
    did("calibrate", "--model", "demo", "--lang", "uk", "--nsamples", "4", "--seqlen", "64")
    assert "2:4 by Wanda alone usually costs much" in did("mask", "--pattern", "2:4").err
    assert "usually costs" not in did("mask", "--pattern", "2:4", "--method", "ria").err
    did("mask", "--method", "magnitude", "--sparsity", "0.9", "--name", "nothing-left")
    done = did("eval", "--mask", "nothing-left", "--lang", "uk", "--seqlen", "64", "--max-windows", "2", "--json")
    assert "nothing-left is ruined" in done.err
    assert Path("langprune-workspace").is_dir()
