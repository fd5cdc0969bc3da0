"""`--dry-run`: the names, places and keys that the command then makes, and nothing run, fetched or written meanwhile."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from langprune_cli.store.artifact import Artifact
from tests.support.command import DRAW, SEQLEN, did, langprune, one_sentence, snapshot
from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite

hub = hub_fixtures.hub

UK = ("--lang", "uk", "--data", "TEXT/uk.jsonl")
COMMANDS: dict[str, list[str]] = {
    "calibrate": ["calibrate", *UK, *DRAW, "--seed", "3"],
    "several": ["calibrate", *UK, "--lang", "en", "--data", "TEXT/en.jsonl", *DRAW, "--collect", "hessian"],
    "tokens": ["calibrate", *UK, "--collect", "tokens"],
    "score": ["score", "--method", "ria"],
    "mask": ["mask", "--stats", "uk", "--pattern", "4:8"],
    "units": ["mask", "--stats", "uk", "--pattern", "channels:0.34", "--method", "flap"],
    "apply": ["apply", "--name", "other"],
    "out": ["apply", "--out", "mine"],
    "eval": ["eval", *UK, "--seqlen", SEQLEN, "--max-windows", "3"],
    "prune": ["prune", *UK, *DRAW, "--pattern", "2:4"],
    "fisher": ["prune", *UK, *DRAW, "--allocation", "fisher"],
    "dense": ["prune", *UK, *DRAW, "--method", "magnitude", "--update", "none", "--pattern", "2:4"],
}


def everything(folder: Path) -> dict[str, Any]:
    """Return hashes and times of all files, and all folders: a dry run leaves not even a log."""
    return snapshot(folder) | {str(path): None for path in folder.rglob("*")}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_said_is_what_is_made(
    workspace: Path, pico_text: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*(word.replace("TEXT", str(pico_text)) for word in COMMANDS[command]), "-w", workspace]
    before = everything(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", None)  # whoever runs a model calls it
        planned = did(*words, "--dry-run", "--json").json
        page = did(*words, "--dry-run").out
    assert everything(tmp_path) == before
    assert (planned["dry_run"], planned["whole"]) == (True, True)
    made = did(*words, "--json").json
    documents = {each["kind"]: each for each in made["artifacts"]} if "artifacts" in made else {made["kind"]: made}
    told = {each["kind"]: each for each in planned["artifacts"]}
    assert told.keys() == documents.keys()
    for kind, each in told.items():
        real = documents[kind]
        assert (each["name"], each["key"]) == (real["name"], real["key"])
        assert Path(each["path"]).resolve() == Path(real["path"]).resolve()
        assert each["cached"] is real["cached"] is False
        assert f"{kind}/{each['name']}" in page
        if each["bytes"] is not None:
            parts = [load_file(part) for part in Path(each["path"]).glob("*.safetensors")]
            size = sum(tensor.nbytes for part in parts for tensor in part.values())
            # Of statistics it is the least: which linears share a site is not known before they are run.
            assert 0.5 * size < each["bytes"] <= size if kind == "stats" else each["bytes"] == size
    again = did(*words, "--dry-run", "--json").json["artifacts"]
    assert [each["cached"] for each in again] == [True] * len(again)
    assert "is there already" in did(*words, "--dry-run").out


def test_sizes_are_told_where_they_are_known(workspace: Path) -> None:
    planned = did("score", "-w", workspace, "--method", "ria", "--dry-run", "--json").json["artifacts"]
    assert planned[0]["bytes"] == 4 * 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (["--pattern", "blocks:0.34", "--pattern", "2:4"], ["masks", "models"]),
        (["--pattern", "2:4", "--tune"], ["stats", "masks", "models"]),
        (["--pattern", "vocab", "--pattern", "2:4"], ["stats", "masks"]),
    ],
)
def test_what_follows_from_results_is_not_made_up(
    workspace: Path, pico_text: Path, tmp_path: Path, words: list[str], kinds: list[str]
) -> None:
    before = everything(tmp_path)
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]
    planned = did("prune", "-w", workspace, *text, *words, "--dry-run", "--json").json
    assert planned["whole"] is False
    assert [each["kind"] for each in planned["artifacts"]] == kinds
    assert (
        "Further artifacts depend on the contents of these"
        in did("prune", "-w", workspace, *text, *words, "--dry-run").out
    )
    assert everything(tmp_path) == before


def test_the_newest_stays_the_newest(workspace: Path, opened: Any) -> None:
    """A dry run finds things without making them the newest, and remembers no model."""
    times = {path: path.stat().st_mtime_ns for path in workspace.rglob("manifest.json")}
    remembered = (workspace / "workspace.json").read_bytes()
    mask: Artifact = opened("masks", "uk-wanda-2x4")
    did("apply", "-w", workspace, "--mask", mask.name, "--dry-run")
    assert (
        "demo" in did("calibrate", "-w", workspace, "--model", "demo", "--lang", "uk", *DRAW, "--dry-run", "--json").out
    )
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("manifest.json")} == times
    assert (workspace / "workspace.json").read_bytes() == remembered


def test_mistakes_are_found_all_the_same(workspace: Path, pico_text: Path) -> None:
    says = "--speed measures, and --dry-run runs nothing"
    one_sentence(langprune("eval", "-w", workspace, "--speed", "--dry-run"), 2, says)
    one_sentence(langprune("mask", "-w", workspace, "--stats", "ukr", "--dry-run"), 1, "did you mean uk")
    words = [
        "calibrate",
        "-w",
        workspace,
        "--data",
        pico_text / "uk.jsonl",
        "--nsamples",
        "99999",
        "--sampling",
        "document",
        "--dry-run",
    ]
    assert langprune(*words).code == 1


def test_nothing_is_fetched(hub: HubSite, pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    hub.add_model("owner/pico", pico_model)
    script = "import sys; from langprune_cli.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words = ["calibrate", "--model", "owner/pico", "--data", str(pico_text / "uk.jsonl"), *DRAW]
    refused = hub.run(script, *words, "--dry-run", cwd=tmp_path)
    assert refused.returncode == 1
    assert "a dry run fetches nothing: langprune plan --model owner/pico" in refused.stderr
    assert hub.requests == []
    assert not list(hub.home.rglob("*.safetensors"))
    made = hub.run(script, *words, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    asked = len(hub.requests)
    found = hub.run(script, *words, "--dry-run", cwd=tmp_path)
    assert "is there already" in found.stdout  # the model lies in the cache now
    assert len(hub.requests) == asked
