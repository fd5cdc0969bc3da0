"""Faults that no other test injects: disks that fail half-way, damage that only a hash shows, deleted parents."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import DRAW, SEQLEN, did, langprune, one_sentence, tree
from tests.support.paths import REPOSITORY

SAYS = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EIO: "the disk reported an input/output error; check it before you run the command again",
    errno.EACCES: "permission is denied: choose a --workspace or --out that you may write",
}


@pytest.mark.parametrize("number", SAYS, ids=errno.errorcode.get)
@pytest.mark.parametrize(("function", "first"), [("fsync", 7), ("replace", 3)])
def test_a_disk_that_fails_in_the_middle_of_a_command(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, function: str, first: int, number: int
) -> None:
    """What was finished before stays, the next run goes on with it, and nothing that was there is harmed."""
    before = tree(workspace)
    words = ["mask", "--stats", "uk", "--pattern", "4:8", "--name", "new", "-w", workspace]
    real, calls = getattr(os, function), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) >= first:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing)
        one_sentence(langprune(*words), 1, SAYS[number])
    left = tree(workspace)
    assert {name: left[name] for name in before} == before
    assert left.keys() - before.keys() == {"masks/new/manifest.json", "masks/new/block-000.safetensors"}
    did(*words)
    did("verify", "--all", "-w", workspace)


# (the part in which a bit is flipped, the command that reads it, which artifact the sentence is about)
FLIPPED = [
    ("stats/uk/block-001.safetensors", ["mask", "--stats", "uk", "--pattern", "4:8"]),
    ("stats/uk/block-001.safetensors", ["score", "--stats", "uk", "--method", "ria"]),
    ("scores/uk-wanda/block-002.safetensors", ["mask", "--scores", "uk-wanda", "--pattern", "4:8"]),
    ("masks/uk-wanda-2x4/block-000.safetensors", ["apply", "--name", "again", "--update", "none"]),
    ("masks/uk-wanda-2x4/block-000.safetensors", ["eval", "--mask", "uk-wanda-2x4", "TEXT", "--seqlen", "24"]),
    ("masks/uk-wanda-2x4/block-000.safetensors", ["compare", "uk-wanda-2x4", "uk-wanda-2x4"]),
    ("models/uk-wanda-2x4/model.safetensors", ["export", "--out", "mine"]),
    ("models/uk-wanda-2x4/tokenizer.json", ["export", "--out", "mine"]),
]


@pytest.mark.parametrize(
    ("part", "words"), FLIPPED, ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else value
)
def test_a_flipped_bit_is_not_computed_with(workspace: Path, pico_text: Path, part: str, words: list[str]) -> None:
    data = bytearray((workspace / part).read_bytes())
    data[len(data) // 2] ^= 4
    (workspace / part).write_bytes(data)
    if words[0] == "apply":
        (workspace / "models/uk-wanda-2x4/manifest.json").unlink()
    before = tree(workspace)
    text = ["--lang", "uk", "--data", str(pico_text / "uk.jsonl")]
    typed = [each for word in words for each in (text if word == "TEXT" else [word])]
    one_sentence(langprune(*typed, "-w", workspace), 1, r"error: .*(is damaged|damaged \().*again")
    left = tree(workspace)
    assert {name: left[name] for name in before} == before
    new = [workspace / name for name in left.keys() - before.keys() if name.endswith("manifest.json")]
    assert not any(json.loads(path.read_bytes())["complete"] for path in new)
    assert not Path("mine").exists()
    data[len(data) // 2] ^= 4  # a copy of the part, say
    (workspace / part).write_bytes(data)
    did(*typed, "-w", workspace)


def test_a_damaged_evaluation_is_passed_over_and_made_again(workspace: Path, pico_text: Path) -> None:
    """Rows are copied from other evaluations of the workspace: not from one with a flipped bit."""
    (result,) = workspace.glob("evals/*/result.json")
    whole = result.read_bytes()
    result.write_bytes(whole.replace(b'"ppl"', b'"ppm"', 1))
    did("export", "-w", workspace, "--out", "mine")
    assert "skipped damaged evaluation" in langprune("export", "-w", workspace, "--out", "other").err
    words = [*langs(pico_text), "--seqlen", SEQLEN, "--max-windows", "5", "-w", workspace]
    result.unlink()
    did("eval", *words)
    assert result.read_bytes() == whole


def langs(text: Path) -> list[object]:
    return ["--lang", "uk", "--data", text / "uk.jsonl", "--lang", "en", "--data", text / "en.jsonl"]


@pytest.mark.parametrize(
    ("parent", "words", "says"),
    [
        ("stats/uk", ["mask", "--stats", "uk"], "no stats artifact is called 'uk': Known: en"),
        ("stats/uk", ["apply", "--update", "pcg"], "stats"),
        (
            "masks/uk-wanda-2x4",
            ["export", "--out", "mine", "--with-mask"],
            "is not in .* any more: leave out --with-mask",
        ),
        ("masks/uk-wanda-2x4", ["apply"], "has no masks: run langprune mask first"),
        ("models/uk-wanda-2x4", ["export", "--out", "mine"], "has no models: run langprune apply first"),
    ],
)
def test_a_deleted_parent_is_named(workspace: Path, parent: str, words: list[str], says: str) -> None:
    did("rm", parent, "-w", workspace)
    before = tree(workspace)
    one_sentence(langprune(*words, "-w", workspace), 1, says)
    assert tree(workspace) == before
    did("verify", "--all", "-w", workspace)  # what was made from it is whole without it


def test_a_deleted_parent_made_again_is_the_same_one(workspace: Path, pico_text: Path) -> None:
    """Its key is what it was, so what was made from it before is found as made already."""
    before = tree(workspace)
    did("rm", "stats/uk", "-w", workspace)
    did("calibrate", *langs(pico_text)[:4], *DRAW, "-w", workspace)
    assert tree(workspace) == before
    assert did("mask", "--stats", "uk", "--pattern", "2:4", "-w", workspace, "--json").json["cached"]


@pytest.mark.parametrize("kind", ["stats", "scores", "masks", "models", "evals"])
def test_an_artifact_of_a_newer_langprune_is_left_alone(workspace: Path, kind: str) -> None:
    (path,) = (path for path in workspace.glob(f"{kind}/*/manifest.json") if path.parent.name != "en")
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {"schema": 2, "tool": "langprune 9", "parts": [], "new": 1}))
    before = tree(workspace)
    name = f"{kind}/{path.parent.name}"
    one_sentence(
        langprune("show", name, "-w", workspace), 1, "has schema 2, .* use the version that wrote it .langprune 9."
    )
    commands = {
        "stats": ["mask", "--stats", "uk"],
        "scores": ["mask", "--scores", path.parent.name],
        "masks": ["apply", "--mask", path.parent.name],
        "models": ["export", "--model", path.parent.name, "--out", "mine"],
    }
    if kind in commands:
        one_sentence(langprune(*commands[kind], "-w", workspace), 1, "has schema 2, this langprune")
    assert tree(workspace) == before
    assert path.parent.name not in did("ls", kind, "-w", workspace).out


def test_every_row_of_the_table_of_faults_names_tests_that_exist() -> None:
    document = (REPOSITORY / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [
        row for row in document.partition("## Faults")[2].partition("\n## ")[0].splitlines() if row.startswith("| ")
    ]
    assert len(rows) > 15
    for row in rows[1:]:
        assert re.search(r"`test_\w+\.py::test_\w+`", row), row
    files = {path.name: path for path in (REPOSITORY / "tests").rglob("test_*.py")}
    for file, test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", document):
        assert f"\ndef {test}(" in files[file].read_text(encoding="utf-8"), f"{file}::{test}"
