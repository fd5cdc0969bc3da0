"""What tests of `recover` share: a pruned model, windows to train it on, and what came of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import langprune_cli
from langprune_cli.stages.recover.looks import RECOVERY_PART
from langprune_cli.store.artifact import Artifact
from tests.support.pico import save_pico

LENGTH = 16


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a file of windows."""
    ids = torch.randint(3, 97, (32, LENGTH), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    save_file({"windows": ids}, tmp_path / "windows.safetensors")
    return tmp_path / "windows.safetensors"


def pruned(
    family: str, pattern: str, data: Path, *, dtype: torch.dtype = torch.float32, **settings: object
) -> Artifact:
    folder = data.parent / "model"
    save_pico(family, folder, dtype=dtype, **settings)
    return langprune_cli.prune(
        model=folder, data=data, pattern=pattern, method="magnitude", update="none", name="cut"
    ).artifact


def recovered(data: Path, **options: object) -> Artifact:
    settings: dict[str, object] = {
        "model": "cut",
        "data": data,
        "tokens": "4k",
        "batch_tokens": 64,
        "learning_rate": 3e-3,
    }
    return langprune_cli.recover(**{**settings, **options}).artifact  # type: ignore[arg-type] # of several types


def looks(model: Artifact) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads(model.read(RECOVERY_PART))["looks"]
    return found
