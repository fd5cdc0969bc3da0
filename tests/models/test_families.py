"""The table of families says what transformers' own modules do: another width changes the shapes of exactly these tensors."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.families import (
    FAMILIES,
    Axis,
    Kind,
    axes_of,
    channel_kinds,
    default_rounding,
    family_of,
    kept_units,
)
from langprune_cli.models.skeleton import build_skeleton, find_blocks
from tests.support import pico

BIASED: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
    "cohere": {"attention_bias": True, "use_qk_norm": True},
    "gemma2": {"attention_bias": True},
    "gemma3_text": {"attention_bias": True},
    "olmo2": {"attention_bias": True},
    "opt": {"enable_bias": False},
    "gpt_neox": {"attention_bias": False},
}
CASES = [(family, {}) for family in FAMILIES] + list(BIASED.items())
FEWER_HEADS = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "cohere",
    "gemma2",
    "gemma3_text",
    "olmo2",
    "phi3",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
]

Shapes = dict[str, tuple[int, ...]]


def config_of(family: str, **settings: Any) -> Any:
    kind, base = pico.EVERY_FAMILY[family]
    return getattr(transformers, kind)(**base | settings)


def shapes_of(config: Any) -> Shapes:
    """Return the shapes of the first block's parameters, by path, as transformers builds them."""
    with torch.device("meta"):
        model = build_skeleton(config, torch.float32)
    blocks = [dict(block.named_parameters()) for block in find_blocks(model)[1]]
    # The first block of each of a mixture's two kinds: their paths differ where their shapes do.
    return {path: tuple(parameter.shape) for block in reversed(blocks) for path, parameter in block.items()}


def check(axes: Sequence[Axis], before: Shapes, after: Shapes, left: int) -> None:
    """Where `left` units are asked for, the slices' tensors have that many in their dimension, and no other tensor differs."""
    assert before.keys() == after.keys()
    cuts = {cut.path: (axis, cut) for axis in axes for cut in axis.slices if cut.path in before}
    assert {path for path in before if before[path] != after[path]} == cuts.keys()
    for path, (axis, cut) in cuts.items():
        rest = [size for dim, size in enumerate(before[path]) if dim != cut.dim]
        assert rest == [size for dim, size in enumerate(after[path]) if dim != cut.dim]
        assert before[path][cut.dim] == axis.units * sum(cut.sizes)
        assert after[path][cut.dim] == left * sum(cut.sizes)
    for axis in axes:
        assert cuts[f"{axis.reader}.weight"][1].sizes == (axis.size,)


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_channels_are_in_these_tensors_and_no_others(family: str, settings: dict[str, Any]) -> None:
    for kind, where in family_of(config_of(family)).channels.items():
        wide, narrow = (config_of(family, **settings, **{where.width_key: width}) for width in (48, 32))
        check(axes_of(wide, [kind]), shapes_of(wide), shapes_of(narrow), 32)


@pytest.mark.parametrize(("family", "settings"), [case for case in CASES if case[0] in FEWER_HEADS])
@pytest.mark.parametrize(("groups", "queries"), [(4, 1), (2, 2), (2, 1)])
def test_kv_groups_are_in_these_tensors_and_no_others(
    family: str, settings: dict[str, Any], groups: int, queries: int
) -> None:
    def heads(number: int) -> Any:
        counts = {"num_attention_heads": number * queries, "num_key_value_heads": number, "head_dim": 6}
        return config_of(family, **settings | counts)

    (axis,) = axes_of(heads(groups), ["kv-groups"])
    assert (axis.units, axis.size) == (groups, queries * 6)
    check([axis], shapes_of(heads(groups)), shapes_of(heads(groups // 2)), groups // 2)


def test_every_family_of_the_table_is_a_pico_family() -> None:
    assert FAMILIES.keys() <= pico.EVERY_FAMILY.keys()
    assert {family for family in FAMILIES if FAMILIES[family].attention} == set(FEWER_HEADS)


def test_gpt2_that_does_not_say_how_wide_it_is() -> None:
    (axis,) = axes_of(config_of("gpt2"), ["channels"])
    assert axis.units == 128


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(FEWER_HEADS)))
def test_families_that_cannot_have_fewer_heads(family: str) -> None:
    with pytest.raises(
        LangpruneError, match=f"{family} cannot state fewer heads of the same width: prune its channels or blocks"
    ):
        axes_of(config_of(family), ["kv-groups"])


def test_one_kv_group_stays() -> None:
    with pytest.raises(LangpruneError, match="a single KV group in each block, which must stay"):
        axes_of(config_of("llama", num_key_value_heads=1), ["kv-groups"])


class OwnCode(transformers.LlamaConfig):  # type: ignore[misc] # transformers is untyped
    """What a checkpoint with Python code of its own may bring."""


@pytest.mark.parametrize("kind", ["channels", "kv-groups"])
@pytest.mark.parametrize(
    ("config", "what"),
    [
        (config_of("bloom"), "bloom"),
        (config_of("deepseek_v3"), "deepseek_v3"),
        (OwnCode(), "llama with its own code"),
        (config_of("llama", per_layer_config={1: {"intermediate_size": 16}}), "llama with blocks of different shapes"),
    ],
)
def test_unknown_families(config: Any, what: str, kind: Kind) -> None:
    with pytest.raises(
        LangpruneError, match=rf"of this {what} cannot be removed: prune it with an unstructured or N:M"
    ):
        axes_of(config, [kind])
    with pytest.raises(LangpruneError, match="cannot be removed"):
        channel_kinds(config)


def test_text_models_inside_of_others() -> None:
    config = transformers.Gemma3Config(text_config=config_of("gemma3_text").to_dict())
    assert axes_of(config, ["channels"]) == axes_of(config_of("gemma3_text"), ["channels"])


@pytest.mark.parametrize(
    ("units", "tile"),
    [(4096, 128), (4095, 64), (2048, 64), (2047, 32), (1024, 32), (1023, 16), (512, 16), (511, 8), (64, 8), (63, 1)],
)
def test_default_rounding(units: int, tile: int) -> None:
    assert default_rounding(units) == tile


@pytest.mark.parametrize(("units", "kept"), [(11008, 9856), (13824, 12416), (24576, 22144), (14336, 12928)])
def test_a_tenth_to_the_nearest_128_as_quark_has_it(units: int, kept: int) -> None:
    assert kept_units(units, 0.1, 128, nearest=True) == kept


@pytest.mark.parametrize(
    ("units", "sparsity", "round_to", "kept"),
    [
        (100, 0.29, 1, 71),  # 100 * (1 - 0.29) is 71 and a little more in binary
        (100, 0.57, 1, 43),
        (3, 1 / 3, 1, 2),
        (11008, 0.1, 128, 9984),  # 9907.2 would have to stay
        (100, 0.0, 64, 100),  # two tiles are more than there is
        (100, 0.5, 100, 100),
        (8, 0.99, 1, 1),
        (8, 0.5, 4, 4),
    ],
)
def test_no_more_is_removed_than_asked(units: int, sparsity: float, round_to: int, kept: int) -> None:
    assert kept_units(units, sparsity, round_to) == kept


@given(units=st.integers(1, 30000), hundredths=st.integers(0, 99), round_to=st.integers(1, 300))
def test_the_count_that_stays_is_the_smallest_multiple_that_is_enough(
    units: int, hundredths: int, round_to: int
) -> None:
    if round_to > units:
        return
    kept = kept_units(units, hundredths / 100, round_to)
    enough = [n for n in (*range(round_to, units, round_to), units) if 100 * n >= units * (100 - hundredths)]
    assert kept == enough[0]


def test_counts_that_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"None of \d+ units would stay at sparsity 0\.9 in multiples of 32"):
        kept_units(64, 0.9, 32, nearest=True)
    for round_to in (65, 0, -8):
        with pytest.raises(UsageError, match=f"cannot be rounded to multiples of {round_to}: give 1 to 64"):
            kept_units(64, 0.5, round_to)
    for sparsity in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="at least 0 and below 1"):
            kept_units(64, sparsity, 8)
