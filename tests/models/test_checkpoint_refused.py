"""Checkpoints that say two things of one tensor, or have more tensors than a model has."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from tests.models.test_checkpoint import SINGLE, save_sharded, save_single, some_tensors


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    """With the same bytes, NaN among them, it counts once; with others nobody can tell which is meant."""
    tensors = some_tensors() | {"twice": torch.tensor([1.0, float("nan")])}
    folder = save_sharded(tmp_path / "m", tensors, 2)
    digest = Checkpoint(folder).digest()
    parts = sorted(folder.glob("part-*"))
    other = next(path for path in parts if "twice" not in load_file(path))
    save_file(load_file(other) | {"twice": tensors["twice"]}, other)
    assert Checkpoint(folder).digest() == digest
    for changed in (tensors["twice"] + 1, tensors["twice"][:1].clone(), tensors["twice"].double()):
        save_file(load_file(other) | {"twice": changed}, other)
        with pytest.raises(LangpruneError, match=r"holds two different tensors twice, in part-0.* and in part-1"):
            Checkpoint(folder)


def test_an_index_beside_a_single_file(tmp_path: Path) -> None:
    folder = save_single(save_sharded(tmp_path / "m", some_tensors(), 2), {"embed.weight": torch.zeros(9, 4)})
    with pytest.raises(LangpruneError, match="and transformers reads only the latter"):
        Checkpoint(folder)


def test_more_tensors_than_any_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is of all files together."""
    tensors = {f"w.{number}": torch.zeros(0) for number in range(20)}
    folder = save_sharded(tmp_path / "m", tensors, 2)
    monkeypatch.setattr("langprune_cli.models.checkpoint.MOST_TENSORS", 20)
    assert len(Checkpoint(folder).entries) == 20
    monkeypatch.setattr("langprune_cli.models.checkpoint.MOST_TENSORS", 19)
    record = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    one = save_raw(tmp_path / "one", json.dumps(dict.fromkeys(tensors, record)).encode())
    for each in (one, folder):
        with pytest.raises(LangpruneError, match="to more than 19 tensors, more than any model has"):
            Checkpoint(each)


def save_raw(folder: Path, header: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header)
    return folder
