"""Channels and KV groups of families that are in no table: what is found is what stock transformers does, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from langprune_cli.models.families import FAMILIES, KV_GROUPS, Axis, Kind, axes_of, channel_kinds
from langprune_cli.models.skeleton import build_skeleton, find_blocks
from langprune_cli.units.axes import channel_axes, group_axes
from langprune_cli.units.experts import few_experts
from langprune_cli.units.found import found_channels, found_groups
from langprune_cli.units.small import build, few_blocks, narrow_widths
from tests.support import pico
from tests.support.narrowed import IDS, as_if_narrowed, equal, logits, narrow, opened

BOTH = [  # whose KV groups leave as well
    "smollm3", "glm", "glm4", "granite", "exaone4", "olmo", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "arcee", "apertus",
    "ministral", "cohere2", "starcoder2", "nemotron", "phi", "gemma", "lfm2", "falcon_h1", "dots1", "glm4_moe", "ernie4_5_moe",
    "qwen3_next",
]  # fmt: skip


def config_of(family: str, **settings: Any) -> Any:
    kind, base = (pico.EVERY_FAMILY | pico.FOUND | pico.OTHERS | pico.MERGED)[family]
    return getattr(transformers, kind)(**base | settings)


def summary(axes: tuple[Axis, ...]) -> dict[Kind, tuple[int, tuple[tuple[str, int], ...]]]:
    return {axis.kind: (axis.units, axis.numbers) for axis in axes}


def check(family: str, kept: dict[Kind, int], tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Narrow a pico model, open it in stock transformers, compare logits, and return its config.json."""
    dense = pico.save_pico(family, tmp_path / "dense", **settings)
    narrowed = narrow(tmp_path / "dense", tmp_path / "small", kept)
    model = opened(narrowed.folder)
    equal(logits(model, IDS), logits(as_if_narrowed(dense, narrowed), IDS))
    assert model.generate(IDS, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape == (2, 22)
    config: dict[str, Any] = json.loads((narrowed.folder / "config.json").read_text())
    return config


@pytest.mark.parametrize("family", sorted(pico.FOUND.keys() - {"gpt_oss", "bitnet"} | {"olmoe", "deepseek_v3"}))
def test_fewer_channels(family: str, tmp_path: Path) -> None:
    axes = channel_axes(config_of(family))
    kept = {kind: 16 if units < 32 else 32 for kind, (units, _) in summary(axes).items()}
    config = check(family, kept, tmp_path)
    for kind, (_, ((key, each),)) in summary(axes).items():
        assert config[key] == kept[kind] * each


def test_each_reader_of_experts_has_the_writer_of_its_own_expert() -> None:
    """Jetmoe's experts are two lists, of a gate beside its up projection, and of what reads them."""
    axes = channel_axes(config_of("jetmoe"))
    assert [axis.reader for axis in axes] == [f"mlp.output_linear.{expert}.linear" for expert in range(len(axes))]
    for expert, axis in enumerate(axes):
        (reader, writer) = axis.slices
        assert (reader.path, reader.sizes) == (f"mlp.output_linear.{expert}.linear.weight", (1,))
        assert (writer.path, writer.sizes) == (f"mlp.input_linear.{expert}.linear.weight", (1, 1))


@pytest.mark.parametrize("family", BOTH)
def test_fewer_kv_groups(family: str, tmp_path: Path) -> None:
    ((units, numbers),) = summary(group_axes(config_of(family))).values()
    config = check(family, {KV_GROUPS: units // 2}, tmp_path)
    assert {key: config[key] for key, _ in numbers} == {key: units // 2 * each for key, each in numbers}
    assert config["head_dim"] == 8


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {}) for family in sorted(FAMILIES)),
        ("mixtral", {"num_local_experts": 9}),
        ("qwen2_moe", {"num_experts": 9}),
    ],
)
def test_what_is_found_is_what_the_table_says(family: str, settings: dict[str, Any]) -> None:
    """The families of the table, looked at as if it were not there; of more than three experts only three are tried."""
    config = config_of(family, **settings)
    for found, said in (
        (found_channels(config), axes_of(config, channel_kinds(config))),
        *([(found_groups(config), axes_of(config, [KV_GROUPS]))] if FAMILIES[family].attention else []),
    ):
        have = {path for block in blocks_of(config) for path, _ in block.named_parameters()}
        assert {as_found(axis, have) for axis in found} == {as_found(axis, have) for axis in said}


@pytest.mark.parametrize(("family", "most"), [("llama", 8), ("glm4", 8), ("deepseek_v3", 100)])
def test_what_is_measured_of_a_large_model_is_small(family: str, most: int) -> None:
    """Its defaults, of billions of parameters: one block of each kind, narrow heads, few tokens and experts."""
    config = getattr(transformers, (pico.EVERY_FAMILY | pico.FOUND)[family][0])()
    small = narrow_widths(few_experts(few_blocks(config))[0])
    weights = sum(each.numel() for each in build(small).parameters())
    assert weights < most * 10**6
    assert len(blocks_of(small)) <= 4
    kinds = {tuple(path for path in block.state_dict() if "experts" not in path) for block in blocks_of(config)}
    assert {tuple(path for path in block.state_dict() if "experts" not in path) for block in blocks_of(small)} == kinds


def blocks_of(config: Any) -> Any:
    return find_blocks(build_skeleton(config, torch.bfloat16))[1]


def as_found(axis: Axis, have: set[str]) -> tuple[object, ...]:
    """Return an axis without the order of its slices, and without tensors that the model does not have."""
    slices = frozenset(cut for cut in axis.slices if cut.path in have)
    return axis.kind, axis.units, axis.size, axis.reader, slices, frozenset(axis.numbers), axis.fixed
