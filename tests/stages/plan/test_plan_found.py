"""What `plan` predicts of families outside of the table is what `prune` then writes, to the byte."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.models.families import FAMILIES
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico

FOUND = [
    "smollm3", "glm4", "granite", "exaone4", "olmo3", "helium", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "arcee", "stablelm",
    "starcoder2", "falcon", "nemotron",
]  # fmt: skip
HEADS_STAY = {"helium", "stablelm", "falcon"}  # their code divides the hidden size by the number of heads


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("windows") / "windows.safetensors"
    ids = torch.randint(3, 97, (2, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    save_file({"windows": ids}, file)
    return file


@pytest.mark.parametrize("pattern", ["channels:0.25", "kv-groups:0.5"])
@pytest.mark.parametrize("family", FOUND)
def test_the_plan_is_what_is_written(family: str, pattern: str, windows: Path, tmp_path: Path) -> None:
    assert family not in FAMILIES
    save_pico(family, tmp_path / "dense")
    model = ["--model", tmp_path / "dense", "--pattern", pattern]
    words = [
        "prune",
        *model,
        "--data",
        windows,
        "-w",
        tmp_path / "w",
        "--method",
        "magnitude",
        "--update",
        "none",
        "--json",
    ]
    if pattern.startswith("kv-groups") and family in HEADS_STAY:
        for command in (["plan", *model], words):
            one_sentence(langprune(*command), 1, "KV groups of .* cannot be removed|cannot state fewer heads")
        return
    planned = did("plan", *model, "--json").json
    tensors = load_file(Path(did(*words).json["path"]) / "model.safetensors")
    assert planned["parameters_after"] == sum(each.numel() for each in tensors.values())
    assert planned["disk_bytes"] == sum(each.nbytes for each in tensors.values())
    assert planned["parameters_after"] < planned["parameters_before"]
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert planned["parameters_before"] == sum(each.numel() for each in dense.values())
