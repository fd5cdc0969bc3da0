"""Whole commands on a model and a dataset of a hub, as a user types them."""

import json
import subprocess
from pathlib import Path

from tests.support.command import DRAW, SEQLEN
from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite

hub = hub_fixtures.hub


COMMAND = "import sys; from langprune_cli.__main__ import main; sys.exit(main(sys.argv[1:]))"


def langprune(hub: HubSite, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, which asks that hub."""
    return hub.run(COMMAND, *words, cwd=folder)


def test_a_hub_model_is_pruned_on_a_hub_dataset(
    hub: HubSite, pico_model: Path, pico_text: Path, tmp_path: Path
) -> None:
    sha = hub.add_model("owner/pico", pico_model)
    repository = tmp_path / "texts"
    repository.mkdir()
    for split, language in (("train", "uk"), ("test", "en")):
        (repository / f"{split}.jsonl").write_bytes((pico_text / f"{language}.jsonl").read_bytes())
    hub.add_dataset("owner/texts", repository)
    words = ["--model", "owner/pico", "--lang", "uk", "--data", "hf:owner/texts:train", *DRAW, "--json"]
    made = langprune(hub, tmp_path, "calibrate", *words)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["about"]["model"] == {"name": "owner/pico", "revision": sha}
    assert langprune(hub, tmp_path, "mask", "--pattern", "2:4").returncode == 0
    evaluated = langprune(
        hub, tmp_path, "eval", "--data", "hf:owner/texts:test", "--seqlen", SEQLEN, "--max-windows", "3", "--json"
    )
    rows = json.loads(evaluated.stdout)["rows"]
    assert [(row["model"], row["mask"]) for row in rows] == [("owner/pico", None), ("owner/pico", "uk-wanda-2x4")]

    hub.stop()
    # The model is in the cache, and what was made is on disk: both serve without the hub.
    assert langprune(hub, tmp_path, "mask", "--pattern", "4:8").returncode == 0
    applied = langprune(hub, tmp_path, "apply", "--out", "pruned")
    assert applied.returncode == 0, applied.stderr
    exported = langprune(hub, tmp_path, "export", "--out", "shared")
    assert exported.returncode == 0, exported.stderr
    assert 'base_model: "owner/pico"' in (tmp_path / "shared" / "README.md").read_text()
    # So are the windows of both texts, for another workspace.
    again = langprune(hub, tmp_path, "calibrate", *words, "-w", "another", "--name", "again")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["key"] == json.loads(made.stdout)["key"]
    assert "cannot be reached" in again.stderr
    kept = (tmp_path / "langprune-workspace" / "stats" / "uk", tmp_path / "another" / "stats" / "again")
    assert len({(folder / "windows.safetensors").read_bytes() for folder in kept}) == 1
    # What is not there is one sentence.
    for missing in (
        ["--model", "owner/other", "--data", "hf:owner/texts"],
        ["--data", "hf:owner/texts:train", "--seed", "7"],
    ):
        failed = langprune(hub, tmp_path, "calibrate", *missing, *DRAW)
        assert failed.returncode == 1
        assert failed.stderr.strip().splitlines()[-1].startswith("error: ")
        assert "Traceback" not in failed.stderr


def test_a_language_by_its_name_and_a_corpus_of_the_hub(
    hub: HubSite, pico_model: Path, pico_text: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "c4"  # laid out as the real one: a config for each language, a file for each split
    repository.mkdir()
    card = []
    for language in ("en", "uk"):
        (repository / language).mkdir()
        lines = (pico_text / f"{language}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        for split, part in (("train", lines[::2]), ("validation", lines[1::2])):
            (repository / language / f"{split}.json").write_text("".join(part), encoding="utf-8")
        card.append(f"- config_name: {language}\n  data_files:\n")
        card += [f"  - split: {split}\n    path: {language}/{split}.json\n" for split in ("train", "validation")]
    (repository / "README.md").write_text(f"---\nconfigs:\n{''.join(card)}---\n")
    hub.add_dataset("allenai/c4", repository)
    words = ["-m", str(pico_model), "--lang", "українська", "--corpus", "c4", "--seqlen", SEQLEN]
    made = langprune(hub, tmp_path, "calibrate", *words, "--nsamples", "6", "--json")
    assert made.returncode == 0, made.stderr
    assert "Text for uk (Ukrainian): hf:allenai/c4:uk:train#text (web pages; " in made.stderr
    assert json.loads(made.stdout)["name"] == "uk"
    assert "en/train.json" not in hub.fetched()
    assert "uk/validation.json" not in hub.fetched()
    evaluated = langprune(hub, tmp_path, "eval", *words, "--lang", "en", "--max-windows", "2", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    rows = json.loads(evaluated.stdout)["rows"]
    assert [(row["language"], row["windows"]) for row in rows] == [("uk", 2), ("en", 2)]
    absent = langprune(hub, tmp_path, "calibrate", "-m", str(pico_model), "--lang", "de", "--corpus", "c4", *DRAW)
    assert absent.returncode == 1
    assert "there is no config 'de' (Known: en, uk)" in absent.stderr.splitlines()[-1]
