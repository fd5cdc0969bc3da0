"""Masks whose linears lose different shares (--allocation fisher): exact totals, the same in all commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file

from langprune_cli.stages.solving.divergences import Measuring
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import open_artifact
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level

PART = "allocation.json"

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("fisher") / "model")


def saved(family: str, folder: Path) -> Path:
    save_pico(family, folder, vocab_size=len(byte_level()), max_position_embeddings=64)
    byte_level().save_pretrained(folder)
    return folder


@pytest.fixture
def make(tmp_path: Path, model: Path, pico_text: Path) -> Make:
    """Return what runs a command with --allocation fisher, after calibrate for `mask`, and gives the folder of the mask."""

    def run(command: str, *words: object, of: Path = model) -> Path:
        place = ("-w", tmp_path / "workspace")
        text = ["--model", of, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]
        if command == "mask":
            did("calibrate", *place, *text, "--collect", "hessian", "--name", "uk")
            text = ["--stats", "uk"]
        made = did(command, *place, *text, "--allocation", "fisher", *words, "--json").json["artifacts"]
        return next(Path(each["path"]) for each in made if each["kind"] == "masks")

    return run


def kept(folder: Path, blocks: int = 3) -> list[dict[str, NDArray[np.bool_]]]:
    """Return the keep masks of each block, unpacked; no linear of these models has a width that eight does not divide."""
    return [
        {
            name: np.unpackbits(bits.numpy(), axis=1, bitorder="little").astype(bool)
            for name, bits in load_file(folder / block_part(index)).items()
        }
        for index in range(blocks)
    ]


def shares_of(folder: Path) -> list[dict[str, Any]]:
    record = json.loads((folder / PART).read_bytes())
    assert record["allocation"] == "fisher"
    blocks: list[dict[str, Any]] = record["blocks"]
    return blocks


@pytest.mark.parametrize("method", ["wanda", "ria", "sparsegpt", "admm"])
def test_linears_lose_what_is_on_record_and_the_total_is_exact(method: str, make: Make) -> None:
    folder = make("mask", "--method", method, "--sparsity", "0.6")
    removed = weights = 0
    found = []
    for block, record in zip(kept(folder), shares_of(folder), strict=True):
        own = {name: each["sparsity"] for name, each in record["linears"].items()}
        assert own.keys() == block.keys()
        for name, keep in block.items():
            assert 0 <= own[name] * keep.size - (~keep).sum() < 1
            assert len(record["linears"][name]["nats"]) == 4
        assert len(set(own.values())) > 4  # linears that read the same too
        here = sum(keep.size for keep in block.values())
        assert record["sparsity"] == pytest.approx(sum(own[name] * keep.size for name, keep in block.items()) / here)
        removed += sum(int((~keep).sum()) for keep in block.values())
        weights += here
        found += list(own.values())
    assert abs(removed - 0.6 * weights) < len(found)
    assert max(found) - min(found) > 0.1


@pytest.mark.parametrize(
    "pattern", [["--sparsity", "0.5"], ["--pattern", "N:8", "--sparsity", "0.5"]], ids=["half", "N:8"]
)
def test_prune_and_the_stages_make_the_same(pattern: list[str], make: Make, tmp_path: Path) -> None:
    words = ["--method", "sparsegpt", *pattern, "--name"]
    mask = make("mask", *words, "staged")
    did("apply", "-w", tmp_path / "workspace", "--mask", "staged")
    at_once = make("prune", *words, "at-once", "--propagation", "dense")
    models = tmp_path / "workspace/models"
    assert (mask / PART).read_bytes() == (at_once / PART).read_bytes()
    weights = [load_file(models / name / "model.safetensors") for name in ("staged", "at-once")]
    for block, record in zip(kept(mask), shares_of(mask), strict=True):
        for name, keep in block.items():
            assert all(((each[name] != 0).numpy() == keep).all() for each in weights)
            if n := record["linears"][name].get("n"):
                assert (keep.reshape(-1, 8).sum(axis=1) == n).all()
    checked = open_artifact(models / "staged", "models").manifest.about["checked"]
    assert checked["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_the_allocation_goes_by_the_dense_model_in_any_propagation(make: Make) -> None:
    parts = [
        make("prune", "-s", "0.5", "--propagation", each, "--name", each) / PART for each in ("dense", "corrected")
    ]
    assert parts[0].read_bytes() == parts[1].read_bytes()


def test_states_on_disk_change_nothing(make: Make, tmp_path: Path) -> None:
    mask = make("prune", "-s", "0.5")
    again = make("prune", "-s", "0.5", "-w", tmp_path / "other", "--max-memory", "1KB")
    assert again != mask
    assert (again / PART).read_bytes() == (mask / PART).read_bytes()


def test_experts_of_a_block_lose_the_same(make: Make, tmp_path: Path) -> None:
    """One share for the gates of all, whether tokens reached them or not, one for their ups, and one for their downs."""
    folder = make("mask", "-s", "0.5", of=saved("qwen3_moe", tmp_path / "model"))
    for record in shares_of(folder)[1:]:
        of_experts = {name: each["sparsity"] for name, each in record["linears"].items() if ".experts." in name}
        for kind in ("gate", "up", "down"):
            assert len({share for name, share in of_experts.items() if f"{kind}_proj" in name}) == 1


def test_linears_that_stay_dense_count_for_nothing(make: Make) -> None:
    folder = make("mask", "-s", "0.6", "--exclude", r"layers\.0\.|down_proj")
    blocks, shares = kept(folder), shares_of(folder)
    assert shares[0] == {"sparsity": 0.6, "linears": {}}
    kinds = {name.split(".")[-2] for block in blocks for name in block}
    assert "down_proj" not in kinds
    weights = sum(keep.size for block in blocks for keep in block.values())
    removed = sum(int((~keep).sum()) for block in blocks for keep in block.values())
    assert abs(removed - 0.6 * weights) < 12


def test_another_sparsity_and_method_find_the_divergences(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make("mask", "-s", "0.5")
    monkeypatch.setattr(Measuring, "run", lambda *_: pytest.fail("the divergences were measured again"))
    others = [
        make("mask", "-s", "0.7"),
        make("mask", "--method", "wanda"),
        make("mask", "--pattern", "N:8", "--exclude", "down"),
    ]
    nats = [
        {name: each["nats"] for block in shares_of(folder) for name, each in block["linears"].items()}
        for folder in (first, *others)
    ]
    assert nats[0] == nats[1] == nats[2]
    assert nats[3] == {name: each for name, each in nats[0].items() if "down" not in name}
    (found,) = (tmp_path / "workspace/divergences").iterdir()
    assert found.name == "uk"


@pytest.mark.parametrize("command", ["mask", "prune"])
def test_a_dry_run_names_the_divergences(
    command: str, make: Make, model: Path, pico_text: Path, tmp_path: Path
) -> None:
    make("mask", "-s", "0.5")
    place = ["-w", tmp_path / "workspace", "--allocation", "fisher", "-s", "0.6", "--dry-run", "--json"]
    text = (
        ["--stats", "uk"]
        if command == "mask"
        else ["-m", model, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]
    )
    planned = {each["kind"]: each["cached"] for each in did(command, *text, *place).json["artifacts"]}
    assert planned["divergences"]
    assert not planned["masks"]


def test_prune_says_what_was_made_on_the_way(model: Path, pico_text: Path, tmp_path: Path) -> None:
    words = ["prune", "-m", model, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]
    spread = ["-w", tmp_path / "workspace", "--allocation", "fisher", "--json"]
    made = [did(*words, *spread, "-s", sparsity).json["artifacts"] for sparsity in ("0.5", "0.5", "0.6")]
    kinds = [[each["kind"] for each in some] for some in made]
    assert kinds[0] == kinds[2] == ["models", "stats", "stats", "divergences", "masks"]
    assert not any(each["cached"] for each in made[0])
    assert all(each["cached"] for each in made[1])
    assert [each["cached"] for each in made[2]] == [False, True, False, True, False]
    did("rm", f"divergences/{made[2][3]['name']}", "-w", tmp_path / "workspace")
    planned = did(*words, *spread, "-s", "0.6", "--dry-run").json["artifacts"]
    assert all(each["cached"] for each in planned)  # the mask is there, and nobody measures for it again


def test_it_needs_hessians(tmp_path: Path, model: Path, pico_text: Path) -> None:
    text = ["--model", model, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]
    did("calibrate", "-w", tmp_path / "workspace", *text, "--name", "norms")
    said = langprune(
        "mask", "-w", tmp_path / "workspace", "--stats", "norms", "--method", "wanda", "--allocation", "fisher"
    )
    one_sentence(said, 1, "--allocation fisher needs Hessians, and stats norms hold only column norms")


def test_it_is_the_same_again(make: Make) -> None:
    words = ["-s", "0.5", "--name"]
    assert tree(make("mask", *words, "one")) == tree(make("mask", *words, "two"))
