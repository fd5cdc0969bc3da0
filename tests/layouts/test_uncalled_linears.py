"""Linears whose weights a model multiplies by itself have no statistics: they stay dense, and the others are pruned."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.models.families import kept_units
from tests.methods.test_depth_methods import some_ids
from tests.support.command import did
from tests.support.pico import save_pico


@pytest.mark.parametrize(("family", "count"), [("mamba", 3), ("falcon_mamba", 3), ("jamba", 3)])
def test_they_are_left_dense_with_a_note(family: str, count: int, tmp_path: Path) -> None:
    save_pico(family, tmp_path / "model")
    save_file({"windows": some_ids()}, tmp_path / "ids.safetensors")
    here = ["-w", tmp_path / "w"]
    text = ["--model", tmp_path / "model", "--data", tmp_path / "ids.safetensors"]
    did("calibrate", *here, *text)
    masks = did("mask", *here, "--pattern", "2:4")
    staged = did("apply", *here, "--json")
    at_once = did("prune", *here, *text, "--pattern", "2:4", "--method", "wanda", "--json")
    dense = load_file(tmp_path / "model" / "model.safetensors")
    for done, noted in ((staged, masks), (at_once, at_once)):
        assert f"{count} linears stay dense, such as " in noted.err
        assert "dt_proj.weight: no forward pass calls them." in noted.err
        pruned = load_file(Path(done.json["path"]) / "model.safetensors")
        for name, tensor in dense.items():
            if "dt_proj" in name:
                assert torch.equal(pruned[name], tensor)
            elif "in_proj.weight" in name:
                assert (pruned[name] == 0).float().mean() == 0.5


@pytest.mark.parametrize(("groups", "share"), [(6, "0.3334"), (6, "0.5"), (6, "0.6667"), (8, "0.5"), (12, "0.9167")])
def test_shares_that_are_named_keep_the_number_that_is_named(groups: int, share: str) -> None:
    assert kept_units(groups, float(share), 1) == groups - round(float(share) * groups)
