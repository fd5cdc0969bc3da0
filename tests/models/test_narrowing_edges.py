"""Names after blocks have left, and smaller models that are refused before any work is done."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen3NextConfig

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import Kind, axes_of
from langprune_cli.models.narrowing import Narrowing, blocks_prefix
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry
from tests.support.narrowed import CHANNELS, IDS, as_if_narrowed, equal, logits, narrow, opened
from tests.support.pico import save_pico


def test_leftovers_of_old_checkpoints_move_with_their_blocks(tmp_path: Path) -> None:
    """Checkpoints of early gpt2 models hold causal masks, without the base model's prefix; the last block's would be too many."""
    dense = save_pico("gpt2", tmp_path / "dense", n_inner=48)
    file = tmp_path / "dense" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    tensors |= {f"h.{index}.attn.bias": torch.full((1, 1, 4, 4), float(index)) for index in range(3)}
    save_file(tensors, file, metadata={"format": "pt"})
    narrowed = narrow(tmp_path / "dense", tmp_path / "small", CHANNELS, [0, 2])
    assert narrowed.narrowing.prefix == "h"
    small = load_file(narrowed.folder / "model.safetensors")
    assert {int(small[name][0, 0, 0, 0]): name for name in small if ".attn.bias" in name} == {
        0: "h.0.attn.bias",
        2: "h.1.attn.bias",
    }
    equal(logits(opened(narrowed.folder), IDS), logits(as_if_narrowed(dense, narrowed), IDS))


@pytest.mark.parametrize(
    ("family", "name", "renamed"),
    [
        ("llama", "model.layers.2.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("gpt2", "transformer.h.2.attn.c_attn.bias", "transformer.h.1.attn.c_attn.bias"),
        ("opt", "model.decoder.layers.2.fc1.weight", "model.decoder.layers.1.fc1.weight"),
        ("gpt_neox", "gpt_neox.layers.2.attention.dense.bias", "gpt_neox.layers.1.attention.dense.bias"),
    ],
)
def test_names(family: str, name: str, renamed: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    paths = StreamedModel(tmp_path).tensor_paths(2)
    narrowing = Narrowing({}, {}, (0, 2), blocks_prefix(paths, 2))
    assert narrowing.name(name, 2) == renamed
    assert name in paths.values()
    assert all(each.endswith(f".2.{path}") for path, each in paths.items())


def test_names_with_more_numbers_in_them() -> None:
    narrowing = Narrowing({}, {}, (0, 3, 12), "a.1.layers")
    assert narrowing.name("a.1.layers.12.b.12.layers.12.c", 12) == "a.1.layers.2.b.12.layers.12.c"
    assert narrowing.leftover("a.1.layers.3.inv_freq") == "a.1.layers.1.inv_freq"
    assert narrowing.leftover("a.1.layers.1.inv_freq") is None
    assert narrowing.leftover("a.1.layers.norm.weight") == "a.1.layers.norm.weight"
    assert narrowing.leftover("vision.layers.1.weight") == "vision.layers.1.weight"
    with pytest.raises(
        LangpruneError, match=r"b\.3\.weight belongs to block 3 but does not begin with a\.1\.layers\.3\."
    ):
        narrowing.name("b.3.weight", 3)
    with pytest.raises(LangpruneError, match=r"such as x\.weight, do not have its number"):
        blocks_prefix({"up.weight": "x.weight"}, 3)


def refused(tmp_path: Path, family: str, kept: dict[Kind, int], blocks: tuple[int, ...], **settings: Any) -> None:
    save_pico(family, tmp_path, **settings)
    config = AutoConfig.from_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    Narrowing(axes_of(config, kept), kept, blocks, "model.layers").config(raw, config)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_numbers_of_heads_that_transformers_refuses(family: str, tmp_path: Path) -> None:
    """Its check of a llama's configuration wants the heads to divide the hidden size, though its code does not need it."""
    shares = r"--pattern kv-groups:0.5 \(4 stay\) or --pattern kv-groups:0.75 \(2 stay\) or --pattern kv-groups:0.875 \(1 stay\)"
    nearest = "or --round nearest for the nearest of these"
    eight = {"num_attention_heads": 8, "num_key_value_heads": 8}
    with pytest.raises(
        LangpruneError,
        match=f"this {family} with 6 of its 8 KV groups: give {shares}, {nearest}, or prune",
    ):
        refused(tmp_path, family, CHANNELS | {"kv-groups": 6}, (0, 2), **eight)


def test_long_contexts_that_depend_on_the_number_of_heads(tmp_path: Path) -> None:
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    settings = {"rope_parameters": factors | {"original_max_position_embeddings": 32, "partial_rotary_factor": 1.0}}
    with pytest.raises(
        LangpruneError, match="this phi3 with 1 of its 2 KV groups, nor with any other number: prune channels"
    ):
        refused(tmp_path, "phi3", {"kv-groups": 1}, (0, 1, 2), **settings)


def test_tensors_and_masks_that_do_not_fit(tmp_path: Path) -> None:
    save_pico("phi3", tmp_path)
    narrowing = Narrowing(axes_of(AutoConfig.from_pretrained(tmp_path), CHANNELS), CHANNELS, (0, 1, 2), "model.layers")
    with pytest.raises(LangpruneError, match=r"has the shape \[48, 32\], which does not hold 48 channels of 2"):
        narrowing.entry("mlp.gate_up_proj.weight", TensorEntry("file", "F32", (48, 32), 0, 48 * 32 * 4))
    for keep in (torch.arange(48) < 31, torch.arange(47) < 32):
        with pytest.raises(ValueError, match="keep 32 of 48"):
            narrowing.tensor("mlp.gate_up_proj.weight", torch.zeros(96, 32), {"mlp.down_proj": keep})


def test_blocks_of_attention_may_not_all_leave() -> None:
    """Stock transformers generates with no cache of linear attention alone."""
    config = Qwen3NextConfig(num_hidden_layers=8)
    raw = json.loads(config.to_json_string())
    assert config.layer_types[3] == config.layer_types[7] == "full_attention"
    Narrowing((), {}, (0, 1, 2, 3, 4), "model.layers").config(raw, config)
    with pytest.raises(LangpruneError, match="none of its blocks with attention would stay"):
        Narrowing((), {}, (0, 1, 2, 4), "model.layers").config(raw, config)
