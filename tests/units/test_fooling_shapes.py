"""Layouts whose shapes look like others': channels and KV groups are found as they lie, or refused, and never wrong.

Each layout is a llama with other modules, registered as a type of its own. What is found is checked apart from the measurement
that finds it: a model of full size without random units against the same model with zeros in their place.
"""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import KV_GROUPS, Axis
from langprune_cli.models.narrowing import Narrowing, opened_as
from langprune_cli.units.found import found_channels, found_groups
from tests.support.narrowed import IDS, equal, logits, some
from tests.units import fooling
from tests.units.fooling import type_of


def check(config: Any, axes: tuple[Axis, ...]) -> None:
    """Remove other random units of each block and axis, and compare logits with those of zeros in their place."""
    torch.manual_seed(0)
    dense: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    kept = {axis.kind: axis.units // 2 for axis in axes}
    narrowing = Narrowing(axes, kept, (0, 1), "model.layers")
    small: Any = AutoModelForCausalLM.from_config(opened_as(config, narrowing.config(config.to_dict(), config))).eval()
    left, zeroed = dict(dense.state_dict()), copy.deepcopy(dense)
    for index, block in enumerate(zeroed.model.layers):
        keep = {axis.reader: some(axis.units, kept[axis.kind], 2 * index + number) for number, axis in enumerate(axes)}
        for path, _ in block.named_parameters():
            left[f"model.layers.{index}.{path}"] = narrowing.tensor(path, left[f"model.layers.{index}.{path}"], keep)
        for axis in axes:
            columns = keep[axis.reader].repeat_interleave(axis.size)
            block.get_submodule(axis.reader).weight.data.mul_(columns)
    small.load_state_dict(left)
    equal(logits(small, IDS), logits(zeroed, IDS))
    assert not torch.allclose(logits(small, IDS), logits(dense, IDS), atol=1e-3)


SQUARE = {"intermediate_size": 32}  # as wide as the hidden states


@pytest.mark.parametrize("settings", [{}, SQUARE, {"intermediate_size": 16}, {"intermediate_size": 97}], ids=str)
@pytest.mark.parametrize("module", [fooling.Mlp, fooling.Fused, fooling.UpFirst, fooling.InTurn])
def test_channels_are_found_as_they_lie(module: type[nn.Module], settings: dict[str, int]) -> None:
    config = type_of(module, **settings)
    axes = found_channels(config)
    assert [(axis.kind, axis.units, axis.reader) for axis in axes] == [
        ("channels", config.intermediate_size, "mlp.down_proj")
    ]
    check(config, axes)


def test_two_layers_of_the_same_shapes_have_units_of_their_own() -> None:
    config = type_of(fooling.Twins, **SQUARE)
    axes = found_channels(config)
    assert {axis.reader for axis in axes} == {"mlp.one.down_proj", "mlp.other.down_proj"}
    for axis in axes:
        module = axis.reader.rpartition(".")[0]
        assert {cut.path.rpartition(".")[0].rpartition(".")[0] for cut in axis.slices} == {module}
    check(config, axes)


MEASURED = "of its largest logit away from one with zeros"
UNCOUNTED = "no number of its configuration counts them"
REFUSED: dict[type[nn.Module], str] = {
    fooling.Mirrored: MEASURED,
    fooling.Shifted: MEASURED,
    fooling.Mixed: MEASURED,
    fooling.Normed: MEASURED,
    fooling.Crossed: MEASURED,
    fooling.Added: "does not run without some of them",
    fooling.Halves: UNCOUNTED,
    fooling.TwoReaders: UNCOUNTED,
}


@pytest.mark.parametrize("settings", [{}, SQUARE], ids=str)
@pytest.mark.parametrize("module", REFUSED)
def test_channels_that_are_not_what_their_shapes_say_are_refused(
    module: type[nn.Module], settings: dict[str, int]
) -> None:
    config = type_of(module, **(SQUARE if module is fooling.Added else settings))
    name = module.__name__.lower()
    with pytest.raises(
        LangpruneError, match=rf"Channels of this fooling_{name} cannot be removed \(.*{REFUSED[module]}"
    ):
        found_channels(config)


# As many heads as a head has entries, queries as wide as the hidden states or not, and as many keys as queries.
ALIKE = [
    {},
    {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8, "hidden_size": 64},
    {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8},
    {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 32},
    {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 16},
]


@pytest.mark.parametrize("settings", ALIKE, ids=str)
@pytest.mark.parametrize("module", [LlamaAttention, fooling.Packed])
def test_kv_groups_are_found_whatever_else_has_their_size(module: type[nn.Module], settings: dict[str, int]) -> None:
    config = type_of(module, **settings)
    (axis,) = found_groups(config)
    queries = config.num_attention_heads // config.num_key_value_heads
    assert (axis.kind, axis.units, axis.reader) == (KV_GROUPS, config.num_key_value_heads, "self_attn.o_proj")
    assert axis.size == queries * config.head_dim
    check(config, (axis,))


@pytest.mark.parametrize("settings", ALIKE, ids=str)
def test_packed_in_another_order(settings: dict[str, int]) -> None:
    """Thirds of equal width are told apart by nothing, and need not be; others are refused."""
    config = type_of(fooling.Backwards, **settings)
    if config.num_attention_heads == config.num_key_value_heads:
        check(config, found_groups(config))
        return
    with pytest.raises(LangpruneError, match=f"KV groups of this fooling_backwards cannot be removed .*{MEASURED}"):
        found_groups(config)


def test_queries_and_keys_may_change_their_names() -> None:
    config = type_of(fooling.Swapped, num_attention_heads=4, num_key_value_heads=4)
    check(config, found_groups(config))


@pytest.mark.parametrize("module", [fooling.Strided, fooling.Turned, fooling.OverHeads])
@pytest.mark.parametrize("settings", ALIKE[1:3], ids=str)
def test_kv_groups_that_are_not_what_their_shapes_say_are_refused(
    module: type[nn.Module], settings: dict[str, int]
) -> None:
    if module is fooling.Strided and settings["num_key_value_heads"] == settings["num_attention_heads"]:
        check(config := type_of(module, **settings), found_groups(config))  # each head is a group, in its own place
        return
    with pytest.raises(LangpruneError, match=f"KV groups of this fooling_{module.__name__.lower()} .*{MEASURED}"):
        found_groups(type_of(module, **settings))


def test_a_norm_over_all_heads_is_over_those_that_stay() -> None:
    """As documented of olmo2: its weights leave with the heads, and what is compared is a norm over the others."""
    (axis,) = found_groups(type_of(fooling.WideNorm))
    cut = next(cut for cut in axis.slices if cut.path == "self_attn.o_proj.norm.weight")
    assert (cut.dim, cut.sizes) == (0, (axis.size,))
