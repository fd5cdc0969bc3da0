"""Models that are named as what they were made from: names are followed, and never round in a circle."""

import json
from pathlib import Path

import pytest

from langprune_cli.store.manifest import read_manifest
from tests.support.artifact_making import sign
from tests.support.command import SEQLEN, did, langprune, one_sentence

MODEL = "uk-wanda-2x4"


def made_from(workspace: Path, model: str, base: str) -> None:
    """Put another name of the base model on record, as an artifact that was renamed or made again leaves it."""
    folder = workspace / "models" / model
    record = json.loads((folder / "manifest.json").read_bytes())
    record["about"]["model"]["name"] = base
    record.pop("digest", None)
    sign(folder / "manifest.json", record)
    assert read_manifest(folder).about["model"]["name"] == base


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_names_ends(workspace: Path, pico_model: Path, pico_text: Path, length: int) -> None:
    names = [MODEL, "second", "third"][:length]
    did("mask", "-w", workspace, "--stats", "en", "--pattern", "2:4")
    for name, mask in zip(names[1:], ("uk-wanda-2x4", "en-wanda-2x4"), strict=False):
        did("apply", "-w", workspace, "--mask", mask, "--name", name, "--force")
    for name, base in zip(names, [*names[1:], names[0]], strict=True):
        made_from(workspace, name, base)
    words = ["eval", "-w", workspace, "--model", MODEL, "--lang", "uk", "--data", pico_text / "uk.jsonl"]
    words += ["--seqlen", SEQLEN, "--max-windows", "2"]
    one_sentence(
        langprune(*words), 1, f"model {names[-1]} was made from {MODEL}, but models/{MODEL} is now made from it"
    )
    rows = did(*words, "--model", pico_model, "--json").json["rows"]
    assert [row["model"] for row in rows] == [pico_model.name, MODEL]
    did("report", "-w", workspace, "--out", "report.html", "--force")
    did("export", "-w", workspace, "--model", MODEL, "--out", "shared")


def test_a_mask_that_removes_nothing_gives_the_model_that_it_was_made_for(workspace: Path, pico_text: Path) -> None:
    did("mask", "-w", workspace, "--method", "magnitude", "--sparsity", "0", "--name", "nothing")
    did("apply", "-w", workspace, "--mask", "nothing")
    words = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN, "--max-windows", "2"]
    did("eval", "-w", workspace, "--model", "nothing", *words)
    did("report", "-w", workspace, "--out", "report.html", "--force")
