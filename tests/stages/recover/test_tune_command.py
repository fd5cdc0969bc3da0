"""`--tune` of apply and prune, and `eval --speed`: what they take, make and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.store.artifact import open_artifact
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico


@pytest.fixture
def pico(tmp_path: Path) -> list[Any]:
    """Return options that name a dense model, a text, and a workspace."""
    save_pico("llama", tmp_path / "dense")
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (8, 24), dtype=torch.int32)}, tmp_path / "windows.safetensors")
    return ["-m", tmp_path / "dense", "--data", tmp_path / "windows.safetensors", "-w", tmp_path / "w"]


TUNE = ["--tune", "--epochs", "6", "--learning-rate", "0.002"]


def test_prune_tunes_the_model_that_it_made_under_the_name_that_was_asked_for(
    pico: list[object],
) -> None:
    words = ["--pattern", "channels:0.34", "--round-to", "8", "--method", "magnitude", "--name", "small"]
    made = did("prune", *pico, *words, *TUNE, "--json").json
    assert made["name"] == "small"
    assert [each["kind"] for each in made["artifacts"]] == ["models", "models", "masks"]
    small, untuned = (open_artifact(Path(each["path"]), "models") for each in made["artifacts"][:2])
    assert small.manifest.about["tuned"]["epochs"] == 6
    config = json.loads((small.folder / "config.json").read_text())
    assert config["intermediate_size"] == 32
    new, old = (load_file(each.folder / "model.safetensors") for each in (small, untuned))
    assert new.keys() == old.keys()
    assert any(not torch.equal(new[name], old[name]) for name in new)
    assert torch.equal(new["model.embed_tokens.weight"], old["model.embed_tokens.weight"])
    rows = did("eval", "--model", "small", *pico[2:], "--json").json
    assert rows["sizes"][0]["parameters_after"] == sum(each.numel() for each in new.values())
    assert did("prune", *pico, *words, *TUNE, "--json").json["cached"]


def test_apply_tunes_on_the_windows_of_the_statistics_and_zeros_stay(pico: list[Any]) -> None:
    where = pico[4:]
    did("calibrate", *pico)
    did("mask", "--pattern", "2:4", *where)
    made = did("apply", *TUNE, *where, "--json").json
    did("export", "--out", "shared", *where)  # with the name of the text, not where it lies
    shared = {path.name: path.read_bytes() for path in Path("shared").iterdir()}
    assert json.loads(shared["langprune.json"])["about"]["tuned"]["text"]["source"] == "windows.safetensors"
    assert [name for name, data in shared.items() if str(pico[1].parent).encode() in data] == []
    weights = load_file(Path(made["path"]) / "model.safetensors")
    for name, weight in weights.items():
        if "_proj" in name:
            groups = weight.view(len(weight), -1, 4)
            assert int((groups != 0).sum(2).max()) <= 2
            assert not torch.signbit(weight[weight == 0]).any()
    chained = open_artifact(Path(made["path"]), "models").manifest
    assert chained.about["mask"]["pattern"] == "2:4"


def test_blocks_leave_and_the_rest_is_tuned(pico: list[object]) -> None:
    made = did(
        "prune", *pico, "--pattern", "blocks:0.34", "--pattern", "channels:0.34", "--round-to", "8", *TUNE, "--json"
    ).json
    manifest = open_artifact(Path(made["path"]), "models").manifest
    assert len(manifest.params["blocks"]) == 2
    assert manifest.about["model"]["name"].endswith("dense")
    dense = load_file(Path(str(pico[1])) / "model.safetensors")
    assert manifest.about["checked"]["parameters_before"] == sum(each.numel() for each in dense.values())


def test_speed_alone_needs_no_text(pico: list[object]) -> None:
    did("prune", *pico, "--pattern", "channels:0.34", "--round-to", "8", "--name", "small")
    rows = did("eval", "--speed", *pico[4:], "--json").json["speed"]
    assert [row["model"] for row in rows] == ["dense", "small"]
    assert rows[1]["parameters"] < rows[0]["parameters"]
    assert rows[1]["file_bytes"] < rows[0]["file_bytes"]
    assert all(row["prefill"] > 0 and row["decode"] > 0 for row in rows)
    both = did("eval", "--speed", *pico[2:])
    assert "Tokens per second" in both.out
    assert "pruning rate" in both.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [(["--epochs", "3"], 2, "go with --tune"), (["--tune", "--learning-rate", "5"], 2, "is not between 0 and 1")],
)
def test_what_cannot_be(words: list[object], code: int, says: str, pico: list[object]) -> None:
    one_sentence(langprune("prune", *pico, "--method", "magnitude", *words), code, says)


def test_a_mask_without_a_text_has_none_to_tune_on(pico: list[object]) -> None:
    did("mask", *pico[:2], "--method", "magnitude", *pico[4:])
    one_sentence(langprune("apply", "--tune", *pico[4:]), 2, "name some with --stats")
