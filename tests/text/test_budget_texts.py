"""Budgets of windows: `--lang uk:4 --lang en:2` is one text of the windows that each would give alone, one after the other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.errors import UsageError
from langprune_cli.stages.statistics.collecting import read_block_stats
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.workspace import Workspace
from langprune_cli.text.budgets import mixture, split_budgets
from langprune_cli.text.windows import fingerprint
from langprune_cli.types import TextSpec
from tests.support.command import SEQLEN, did, langprune, one_sentence

BLOCKS = [f"block-{index:03d}.safetensors" for index in range(3)]


def stats(workspace: Path, name: str) -> Artifact:
    return Workspace(workspace).find("stats", name)


@pytest.fixture
def data(pico_text: Path) -> dict[str, Path]:
    return {language: pico_text / f"{language}.jsonl" for language in ("uk", "en")}


def mix(data: dict[str, Path], **budgets: int) -> list[Any]:
    return [
        word
        for language, count in budgets.items()
        for word in ("--lang", f"{language}:{count}", "--data", data[language])
    ]


def test_values_are_taken_apart() -> None:
    assert split_budgets(["uk:96", "pt-BR:32"]) == (["uk", "pt-BR"], [96, 32])
    assert split_budgets(["uk", "en"]) == (["uk", "en"], [])
    assert split_budgets([]) == ([], [])
    assert split_budgets(["uk:x"]) == (["uk:x"], [])  # no tag, which is for who reads tags to say
    for wrong, says in ((["uk:96", "en"], "--lang en:32|write en:32"), (["uk:0"], "asks for no windows")):
        with pytest.raises(UsageError, match=says):
            split_budgets(wrong)


def test_a_mixture_knows_its_texts() -> None:
    uk, en = TextSpec("uk", "a.txt", "uk"), TextSpec("en", "b.txt", "en")
    both = mixture([uk, en], [3, 1])
    assert (both.language, both.name, both.singles) == (None, "uk+en", (uk, en))
    assert [each.windows for each in both.parts] == [3, 1]
    assert mixture([uk, TextSpec("uk", "c.txt", "uk-2")], [1, 1]).language == "uk"
    assert uk.singles == (uk,)


def test_windows_are_those_of_each_language(workspace: Path, data: dict[str, Path]) -> None:
    did("calibrate", "-w", workspace, *mix(data, uk=4, en=2), "--seqlen", SEQLEN)
    found = stats(workspace, "uk+en")
    ids = load_file(found.folder / "windows.safetensors")["windows"]
    alone = []
    for language, count in (("uk", 4), ("en", 2)):
        did("calibrate", "-w", workspace, "--lang", language, "--data", data[language], "--nsamples", count, "--seqlen",
            SEQLEN, "--name", f"{language}-alone")  # fmt: skip
        alone.append(stats(workspace, f"{language}-alone"))
    own = [load_file(each.folder / "windows.safetensors")["windows"] for each in alone]
    assert torch.equal(ids, torch.cat(own))
    assert found.manifest.inputs["text"] == {
        "language": None, "fingerprint": fingerprint(ids), "windows": 6, "seqlen": 16,
    }  # fmt: skip
    texts = found.manifest.about["text"]["texts"]
    assert [(each["language"], each["windows"], each["fingerprint"]) for each in texts] == [
        ("uk", 4, fingerprint(own[0])), ("en", 2, fingerprint(own[1])),
    ]  # fmt: skip
    for part in BLOCKS:
        one, others = read_block_stats(found, part), [read_block_stats(each, part) for each in alone]
        for name, tensor in one.tensors.items():
            expected = others[0].tensors[name] + others[1].tensors[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
    assert "6 windows of 16 tokens, of 2 texts" in did("ls", "stats", "-w", workspace).out


def test_one_budget_is_nsamples(workspace: Path, data: dict[str, Path]) -> None:
    words = ["-w", workspace, "--lang", "uk", "--data", data["uk"], "--seqlen", SEQLEN]
    did("calibrate", *words, "--nsamples", "6", "--name", "own")
    again = did("calibrate", "-w", workspace, *mix(data, uk=6), "--seqlen", SEQLEN, "--name", "own", "--json").json
    assert again["cached"]
    assert again["about"] == stats(workspace, "uk").manifest.about


def test_calibrated_in_stages_and_pruned_at_once_on_one_text(workspace: Path, data: dict[str, Path]) -> None:
    words = [*mix(data, uk=4, en=2), "--seqlen", SEQLEN]
    did("calibrate", "-w", workspace, *words)
    did("mask", "-w", workspace, "--stats", "uk+en", "--method", "wanda", "--name", "stages")
    made = did("prune", "-w", workspace, *words, "--method", "wanda", "--propagation", "dense", "--name", "at-once",
               "--json").json  # fmt: skip
    (mask,) = (each for each in made["artifacts"] if each["kind"] == "masks")
    assert mask["key"] == Workspace(workspace).find("masks", "stages").key
    pruned = did("prune", "-w", workspace, *words, "--method", "wanda", "--tune", "--epochs", "1", "--json").json
    assert [each["source"] for each in pruned["about"]["tuned"]["text"]["texts"]] == [str(data["uk"]), str(data["en"])]
    smaller = did("prune", "-w", workspace, *words, "--pattern", "channels:0.5", "--round-to", "8", "--method",
                  "wanda-sp", "--pattern", "vocab", "--json").json  # fmt: skip
    counted = {each["name"] for each in smaller["artifacts"] if each["name"].endswith("-tokens")}
    assert {"uk-tokens", "en-tokens"} <= counted


def test_the_card_says_both(workspace: Path, data: dict[str, Path], tmp_path: Path) -> None:
    did("prune", "-w", workspace, *mix(data, uk=4, en=2), "--seqlen", SEQLEN, "--method", "wanda")
    did("export", "-w", workspace, "--out", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    (row,) = (line for line in card.splitlines() if line.startswith("| calibration text |"))
    assert re.search(r"uk, uk\.jsonl: 4 windows of 16 tokens .*; en, en\.jsonl: 2 windows of 16 tokens", row)


def test_files_of_windows_give_their_first(workspace: Path, data: dict[str, Path], tmp_path: Path) -> None:
    given = torch.arange(160, dtype=torch.int32).view(10, 16)
    save_file({"windows": given}, tmp_path / "given.safetensors")
    words = ["calibrate", "-w", workspace, "--lang", "en:3", "--data", tmp_path / "given.safetensors"]
    did(*words, *mix(data, uk=2), "--seqlen", SEQLEN)
    ids = load_file(stats(workspace, "en+uk").folder / "windows.safetensors")["windows"]
    assert torch.equal(ids[:3], given[:3])
    assert len(ids) == 5
    one_sentence(
        langprune(*words, *mix(data, uk=2), "--seqlen", "8"), 1, "windows of 8 tokens and .* of 16: .* --seqlen"
    )
    words[4] = "en:11"
    one_sentence(langprune(*words, *mix(data, uk=2), "--seqlen", SEQLEN), 1, "holds 10 windows, and 11 were asked for")


def test_what_does_not_go_with_budgets_is_refused(workspace: Path, data: dict[str, Path]) -> None:
    both = mix(data, uk=4, en=2)

    def refused(says: str, *words: Any) -> None:
        one_sentence(langprune(*words, "-w", workspace), 2, says)

    refused("leave out --nsamples", "calibrate", *both, "--nsamples", "6")
    refused("leave out --nsamples", "prune", *both, "--nsamples", "6")
    refused("--lang en does not", "calibrate", "--lang", "uk:4", "--lang", "en")
    refused("'uk:many' is no language", "calibrate", "--lang", "uk:many")
    refused("paired in order", "calibrate", *both[:4], "--lang", "en:3")
    refused("draws no windows, but --lang uk:4", "calibrate", *both, "--collect", "tokens")
    refused("counting tokens draws no windows", "prune", *both, "--pattern", "vocab")
    refused("'uk:4' is no language", "eval", *both)
    several = ["--lang", "uk", "--data", data["uk"], "--lang", "en", "--data", data["en"]]
    refused("one text at a time, and 2 were given: .* --lang uk:96", "prune", *several)


def test_manifests_do_not_depend_on_the_run(workspace: Path, data: dict[str, Path], tmp_path: Path) -> None:
    words = ["calibrate", *mix(data, uk=2, en=2), "--seqlen", SEQLEN, "--model"]
    model = json.loads((workspace / "workspace.json").read_bytes())["model"]["name"]
    for folder in ("one", "two"):
        did(*words, model, "-w", tmp_path / folder)
    one, two = ((tmp_path / folder / "stats/uk+en/manifest.json").read_bytes() for folder in ("one", "two"))
    assert one == two
