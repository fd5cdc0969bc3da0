"""What a command reads does not grow with the workspace: exact counts beside 300 artifacts of all kinds."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import click
import pytest
import typer

from langprune_cli.cli.options.completion import names_of
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.store import index
from langprune_cli.store.index import Outline
from langprune_cli.store.workspace import Workspace
from tests.support.command import DRAW, SEQLEN, did
from tests.support.counting import Counts, counted
from tests.support.crowding import crowd

EACH = 59  # copies of each kind
ALL = 5 * (EACH + 1) + 2  # statistics are of two texts, and the model was evaluated besides
MASK = "uk-wanda-2x4"
NAMES = {"stats": "uk", "scores": "uk-wanda", "masks": MASK, "models": MASK, "evals": "old"}


@pytest.fixture(scope="module")
def made_crowded(made: Path, pico_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the workspace once: one artifact of each kind that is real, an evaluation of a mask, and 59 copies of each."""
    folder = tmp_path_factory.mktemp("crowded") / "ws"
    shutil.copytree(made, folder)
    did("eval", "-w", folder, "--mask", MASK, *of(pico_text, "uk"), "--name", "old")
    crowd(folder, NAMES, dict.fromkeys(NAMES, EACH))
    return folder


@pytest.fixture
def crowded(made_crowded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy it; its manifests count as settled, or none would get into the index yet."""
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    folder = tmp_path / "ws"
    shutil.copytree(made_crowded, folder)
    return folder


@pytest.fixture
def indexed(crowded: Path) -> Path:
    """Have every kind looked through once."""
    for kind in NAMES:
        Workspace(crowded).outlines(kind)
    return crowded


def of(text: Path, *languages: str) -> list[object]:
    words = [word for each in languages for word in ("--lang", each, "--data", text / f"{each}.jsonl")]
    return [*words, "--seqlen", SEQLEN, "--max-windows", "5"]


def cost(workspace: Path, *words: object) -> Counts:
    with counted(workspace) as counts:
        did(*words, "-w", workspace)
    return counts


def test_copies_are_artifacts(crowded: Path) -> None:
    """What is counted is no artifact of the counting: all that was copied is whole, and no two are alike."""
    assert "damaged" not in did("verify", "--all", "-w", crowded).out
    entries = Workspace(crowded).entries()
    assert len(entries) == ALL
    assert len({entry.manifest.key for entry in entries}) == ALL


def test_ls_reads_each_manifest_once(crowded: Path) -> None:
    first = did("ls", "--json", "-w", crowded).out
    for path in crowded.glob(".shown-*"):
        path.unlink()
    counts = cost(crowded, "ls")
    assert (counts.manifests, counts.results, counts.others) == (ALL, EACH + 2, 0)
    for words in (["ls"], ["ls", "--sort", "size"], ["ls", "--json"]):
        counts = cost(crowded, *words)
        assert (counts.manifests, counts.results, counts.others) == (0, 0, len(NAMES))
    assert did("ls", "--json", "-w", crowded).out == first


def test_ls_reads_again_what_has_changed(crowded: Path) -> None:
    before = json.loads(did("ls", "evals", "--json", "-w", crowded).out)["artifacts"]
    os.utime(crowded / "evals/copy-0003/manifest.json", (10**9, 10**9))
    (crowded / "evals/copy-0004/manifest.json").write_text("{}")
    counts = cost(crowded, "ls", "evals")
    assert set(counts.artifacts) == {"evals/copy-0003", "evals/copy-0004"}
    after = json.loads(did("ls", "evals", "--json", "-w", crowded).out)["artifacts"]
    assert {each["name"] for each in before} - {each["name"] for each in after} == {"copy-0004"}
    assert after[0]["name"] == "copy-0003"
    same = [
        {name: value for name, value in each.items() if name != "date"}
        for each in before
        if each["name"] != "copy-0004"
    ]
    assert all({name: value for name, value in each.items() if name != "date"} in same for each in after)


@pytest.mark.parametrize(
    "body", ["", "[]", '{"schema": 1, "entries": {}}', '{"schema": "ls of 0.0.0", "entries": {}}', "SHOWN WRONG"]
)
def test_a_strange_file_in_its_place_changes_nothing(crowded: Path, body: str) -> None:
    first = did("ls", "masks", "--json", "-w", crowded).out
    path = crowded / ".shown-masks"
    if body == "SHOWN WRONG":
        document = json.loads(path.read_bytes().splitlines()[1])
        for entry in document["entries"].values():
            entry[1]["what"] = 3
        body = json.dumps(document)
    path.write_text(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n")
    assert did("ls", "masks", "--json", "-w", crowded).out == first


def test_what_names_an_artifact_reads_no_other(crowded: Path) -> None:
    for words, artifacts in (
        (["show", "scores/copy-0005"], ["scores/copy-0005"]),
        (["show", "uk-wanda"], ["scores/uk-wanda"]),
        (["verify", "masks/copy-0007"], ["masks/copy-0007"]),
        (["verify", "uk-wanda"], ["scores/uk-wanda"]),
        (["compare", "copy-0001", "copy-0002", "--kind", "masks"], ["masks/copy-0001", "masks/copy-0002"]),
        (["rm", "uk-wanda"], ["scores/uk-wanda"]),
        (["rm", "masks/copy-0007"], []),
    ):
        assert (words, cost(crowded, *words).artifacts) == (words, artifacts)


def test_a_result_that_is_there_is_found_by_its_key(indexed: Path, pico_model: Path, pico_text: Path) -> None:
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    mask, model = f"masks/{MASK}", f"models/{MASK}"
    for words, artifacts in (
        (["calibrate", "--model", pico_model, *text, *DRAW], {"stats/uk"}),
        (["score", "--stats", "uk"], {"stats/uk", "scores/uk-wanda"}),
        (["mask", "--stats", "uk", "--pattern", "2:4"], {"stats/uk", mask}),
        (["apply", "--mask", MASK], {"stats/uk", mask, model}),
        (["eval", "--mask", MASK, *of(pico_text, "uk")], {mask, "evals/old"}),
    ):
        counts = cost(indexed, *words)
        assert (words, set(counts.artifacts)) == (words, artifacts)
        assert counts.evaluations == ["old"] * (words[0] == "eval")


def test_a_new_evaluation_reads_the_rows_that_it_needs(indexed: Path, pico_text: Path) -> None:
    """All 61 that are there have the dense row on uk: the newest is enough."""
    counts = cost(indexed, "eval", "--mask", MASK, *of(pico_text, "uk"), "--name", "again")
    assert counts.evaluations == [f"copy-{EACH - 1:04d}", "old", "again"]
    counts = cost(indexed, "eval", "--mask", "copy-0030", *of(pico_text, "en"), "--name", "new")
    assert counts.evaluations == [f"{MASK}-uk-en", "new"]
    counts = cost(indexed, "eval", "--mask", "copy-0030", *of(pico_text, "uk"), "--name", "known")
    assert counts.evaluations == ["again", "copy-0030", "known"]


def test_a_report_reads_what_it_shows(indexed: Path, tmp_path: Path) -> None:
    """It digests the one model that was made with the mask that it shows."""
    counts = cost(indexed, "report", "--eval", "old", "--out", tmp_path / "report.html")
    assert sorted(counts.artifacts) == ["evals/old", f"masks/{MASK}", f"models/{MASK}", "stats/uk"]
    assert counts.evaluations == ["old"]
    assert sorted(did("report", "--eval", "old", "--force", "--json", "-w", indexed).json["artifacts"]) == sorted(
        counts.artifacts
    )


def test_an_export_reads_the_evaluations_of_its_model(indexed: Path, pico_text: Path, tmp_path: Path) -> None:
    """All 61 have a row of the dense model: beside those of the pruned one, the newest on the same texts is read."""
    counts = cost(indexed, "export", "--model", MASK, "--out", tmp_path / "out")
    assert counts.evaluations == [f"{MASK}-uk-en", "old", f"copy-{EACH - 1:04d}"]
    did("calibrate", "--model", indexed / f"models/{MASK}", "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW,
        "-w", indexed, "--name", "second")  # fmt: skip
    did("mask", "--stats", "second", "--sparsity", "0.7", "--name", "second", "-w", indexed)
    did("apply", "--mask", "second", "-w", indexed, "--name", "second")
    counts = cost(indexed, "export", "--model", "second", "--out", tmp_path / "second")
    assert counts.evaluations == []


def test_completion_reads_nothing(crowded: Path) -> None:
    complete = names_of("masks", "models")
    command = click.Command("show", params=[click.Option(["--workspace"], default=str(crowded))])
    with counted(crowded) as counts:
        assert len(complete(typer.Context(command), "copy-00")) == 2 * EACH
    assert counts.files == 0


def test_a_model_is_told_by_its_weights_as_its_manifest_has_them(crowded: Path) -> None:
    model = Workspace(crowded).find("models", "copy-0003")
    assert Outline.of(model.manifest).weights == Checkpoint(model.folder).weights_sha256
