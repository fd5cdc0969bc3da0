"""Which checkpoint tensors of a block carry its channels and heads, for each family, and how many units stay.

To remove a unit, remove its entries from every tensor listed here. Paths and layouts are those of transformers' modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, UsageError

if TYPE_CHECKING:  # protocols import torch, and the command line reads this file together with the patterns
    from langprune_cli.models.protocols import Configuration

# What a number in config.json counts, such as "channels" or "kv-groups". Experts ("expert-channels") and shared experts
# ("shared-expert-channels") have widths of their own.
Kind = str
KV_GROUPS: Kind = "kv-groups"


@dataclass(frozen=True)
class Slice:
    """One checkpoint tensor of a block that carries the units of an axis."""

    path: str  # of the parameter inside the block: "mlp.gate_proj.weight"
    dim: int  # of the tensor as the checkpoint stores it: a Conv1D is [in, out]
    sizes: tuple[int, ...]  # entries per unit, for each consecutive segment along `dim`


@dataclass(frozen=True)
class Axis:
    """The units that one linear of a block reads, and the tensors that carry them; each expert has its own axis."""

    kind: Kind
    units: int  # per block
    size: int  # input columns of the reader per unit, consecutive
    reader: str  # path of the linear that reads the units
    slices: tuple[Slice, ...]  # with the reader's weight; tensors missing from a checkpoint (biases) have no effect
    numbers: tuple[tuple[str, int], ...]  # keys of config.json that count the units, and how much one unit adds to each
    fixed: tuple[tuple[str, int], ...] = ()  # keys whose default depends on the number of units, and their values


@dataclass(frozen=True)
class HeadCounts:
    """The heads of a model's attention."""

    groups: int  # KV heads
    queries: int  # query heads of each KV head, consecutive
    width: int  # entries of a head


Size = Callable[[HeadCounts], int]  # entries per KV group


def _q(heads: HeadCounts) -> int:
    return heads.queries * heads.width


def _kv(heads: HeadCounts) -> int:
    return heads.width


def _q_heads(heads: HeadCounts) -> int:
    return heads.queries


def _kv_heads(_: HeadCounts) -> int:
    return 1


# The tensors that write a KV group, by path: entries of each segment. q_norm and k_norm of qwen3 and gemma3 stay: they are one
# head wide and shared by all heads.
_Q_K_V: dict[str, tuple[Size, ...]] = {
    "self_attn.q_proj": (_q,),
    "self_attn.k_proj": (_kv,),
    "self_attn.v_proj": (_kv,),
}
_FUSED_Q_K_V: dict[str, tuple[Size, ...]] = {"self_attn.qkv_proj": (_q, _kv, _kv)}
# olmo2 takes the root mean square over all heads. Over fewer heads it changes, so the smaller model differs slightly from
# the one with zero columns in the reader.
_WITH_WIDE_NORMS = _Q_K_V | {"self_attn.q_norm": (_q,), "self_attn.k_norm": (_kv,)}
# cohere (use_qk_norm) normalises each head separately, with weights [heads, width].
_WITH_HEAD_NORMS = _Q_K_V | {"self_attn.q_norm": (_q_heads,), "self_attn.k_norm": (_kv_heads,)}


@dataclass(frozen=True)
class Channels:
    """Where a family keeps channels of one kind; {} in a path is the number of an expert."""

    reader: str
    writers: dict[str, tuple[int, ...]]  # path -> entries per channel and segment
    width_key: str = "intermediate_size"  # their number in config.json


def _gated(module: str, width_key: str = "intermediate_size") -> Channels:
    return Channels(f"{module}.down_proj", {f"{module}.gate_proj": (1,), f"{module}.up_proj": (1,)}, width_key)


@dataclass(frozen=True)
class Family:
    """Where a family keeps its units."""

    channels: dict[Kind, Channels] = field(default_factory=lambda: {"channels": _gated("mlp")})
    # None: the family's code always computes the head width as hidden_size / num_attention_heads.
    attention: dict[str, tuple[Size, ...]] | None = None
    transposed: bool = False  # its linears are Conv1D


def _of(channels: Channels) -> dict[Kind, Channels]:
    return {"channels": channels}


# Some blocks have experts, others are dense.
_MIXED: dict[Kind, Channels] = {
    "channels": _gated("mlp"),
    "expert-channels": _gated("mlp.experts.{}", "moe_intermediate_size"),
}
_SHARED = _gated("mlp.shared_expert", "shared_expert_intermediate_size")

FAMILIES: dict[str, Family] = {
    "llama": Family(attention=_Q_K_V),
    "mistral": Family(attention=_Q_K_V),
    "qwen2": Family(attention=_Q_K_V),
    "qwen3": Family(attention=_Q_K_V),
    "cohere": Family(attention=_WITH_HEAD_NORMS),
    "gemma2": Family(attention=_Q_K_V),
    "gemma3_text": Family(attention=_Q_K_V),
    "olmo2": Family(attention=_WITH_WIDE_NORMS),
    "phi3": Family(_of(Channels("mlp.down_proj", {"mlp.gate_up_proj": (1, 1)})), _FUSED_Q_K_V),
    "opt": Family(_of(Channels("fc2", {"fc1": (1,)}, "ffn_dim"))),
    "gpt2": Family(_of(Channels("mlp.c_proj", {"mlp.c_fc": (1,)}, "n_inner")), transposed=True),
    "gpt_neox": Family(_of(Channels("mlp.dense_4h_to_h", {"mlp.dense_h_to_4h": (1,)}))),
    "mixtral": Family({"expert-channels": _gated("mlp.experts.{}")}, _Q_K_V),
    "qwen2_moe": Family(_MIXED | {"shared-expert-channels": _SHARED}, _Q_K_V),
    "qwen3_moe": Family(_MIXED, _Q_K_V),
}
_ATTENTION_READER = "self_attn.o_proj"  # in every family whose heads can be pruned


def family_of(config: Configuration) -> Family:
    """Return the family of a configuration; raises LangpruneError for an unknown family."""
    text = config.get_text_config()
    own_code = _has_own_code(text)
    if text.model_type not in FAMILIES or own_code or getattr(text, "is_heterogeneous", False):
        what = f"this {text.model_type} with its own code" if own_code else f"this {text.model_type}"
        what = f"{what} with blocks of different shapes" if getattr(text, "is_heterogeneous", False) else what
        raise LangpruneError(
            f"Channels and KV groups of {what} cannot be removed: prune it with an unstructured or N:M pattern"
        )
    return FAMILIES[text.model_type]


def in_table(config: Configuration) -> bool:
    """Return whether `family_of` is to be asked about a configuration: others' units are found by building them smaller."""
    text = config.get_text_config()
    return text.model_type in FAMILIES or _has_own_code(text) or bool(getattr(text, "is_heterogeneous", False))


def _has_own_code(text: Configuration) -> bool:
    """Return whether code came with a checkpoint: it may use a known name for modules of its own."""
    return not type(text).__module__.startswith("transformers.")


def heads_of(config: Configuration) -> HeadCounts:
    """Return the heads of a configuration; without GQA every head is a group."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return HeadCounts(groups, heads // groups, width)


def channel_kinds(config: Configuration) -> tuple[Kind, ...]:
    """Return the kinds of channels of a model, several if it has experts; raises LangpruneError for an unknown family."""
    text = config.get_text_config()
    sparse = sparse_blocks(text)
    here = {"channels": not all(sparse), "expert-channels": any(sparse), "shared-expert-channels": any(sparse)}
    return tuple(kind for kind in family_of(config).channels if here[kind])


def sparse_blocks(text: Configuration) -> tuple[bool, ...]:
    """Return for each block whether its feed-forward layer has experts, by the rules of mixtral's and qwen's code."""
    experts, step = experts_in(text), getattr(text, "decoder_sparse_step", None) or 1
    dense = getattr(text, "mlp_only_layers", None) or ()
    return tuple(
        experts > 0 and index not in dense and (index + 1) % step == 0 for index in range(text.num_hidden_layers)
    )


def experts_in(text: Configuration) -> int:
    """Return the number of experts per block, 0 for a dense model."""
    found = (getattr(text, key, None) for key in ("num_local_experts", "num_experts", "n_routed_experts"))
    return next((number for number in found if number), 0)


def has_experts(config: Configuration) -> bool:
    """Return whether a configuration counts experts, under whatever name."""
    return _counts_experts(vars(config.get_text_config()))


def _counts_experts(values: dict[str, object]) -> bool:
    return any(
        ("expert" in key and type(value) is int and value > 1)
        or (hasattr(value, "model_type") and _counts_experts(vars(value)))  # dbrx's ffn_config
        for key, value in values.items()
    )


def axes_of(config: Configuration, kinds: Iterable[Kind]) -> tuple[Axis, ...]:
    """Return the axes of these kinds that a model's blocks may have; a dense block has none for experts.

    Raises LangpruneError for an unknown family, a family whose heads cannot be pruned, and a single KV group.
    """
    return tuple(axis for kind in kinds for axis in _axes(config, kind))


def _axes(config: Configuration, kind: Kind) -> list[Axis]:
    family, text = family_of(config), config.get_text_config()
    if kind == KV_GROUPS:
        return [_groups(config)]
    where = family.channels[kind]
    units = getattr(text, where.width_key) or 4 * text.hidden_size  # gpt2 leaves it out if it is 4 x hidden_size
    return [
        _axis(
            kind,
            units,
            1,
            where.reader.format(expert),
            {path.format(expert): sizes for path, sizes in where.writers.items()},
            ((where.width_key, 1),),
            transposed=family.transposed,
        )
        for expert in range(experts_in(text) if "{}" in where.reader else 1)
    ]


def _groups(config: Configuration) -> Axis:
    family, text = family_of(config), config.get_text_config()
    if family.attention is None:
        raise LangpruneError(
            f"The config.json of this {text.model_type} cannot state fewer heads of the same width: prune its channels or "
            "blocks, not KV groups"
        )
    heads = heads_of(config)
    if heads.groups == 1:
        raise LangpruneError(
            f"This {text.model_type} has a single KV group in each block, which must stay: prune its channels or blocks"
        )
    writers = {path: tuple(size(heads) for size in sizes) for path, sizes in family.attention.items()}
    numbers = ("num_attention_heads", heads.queries), ("num_key_value_heads", 1)
    axis = _axis(KV_GROUPS, heads.groups, _q(heads), _ATTENTION_READER, writers, numbers, transposed=family.transposed)
    return replace(axis, fixed=(("head_dim", heads.width),))  # else transformers divides hidden_size by fewer heads


def _axis(
    kind: Kind,
    units: int,
    size: int,
    reader: str,
    writers: dict[str, tuple[int, ...]],
    numbers: tuple[tuple[str, int], ...],
    *,
    transposed: bool,
) -> Axis:
    rows, columns = (1, 0) if transposed else (0, 1)
    slices = [Slice(f"{reader}.weight", columns, (size,))]  # its bias is an output: it stays
    for path, sizes in writers.items():
        slices += [Slice(f"{path}.weight", rows, sizes), Slice(f"{path}.bias", 0, sizes)]
    return Axis(kind, units, size, reader, tuple(slices), numbers)


def default_rounding(units: int) -> int:
    """Return the multiple to round kept channels to: wider layers use kernels with wider tiles."""
    wide = next((tile for least, tile in ((4096, 128), (2048, 64), (1024, 32), (512, 16)) if units >= least), 8)
    return wide if units >= 64 else 1


def kept_units(units: int, sparsity: float, round_to: int, *, nearest: bool = False) -> int:
    """Return how many of `units` stay: the smallest multiple of `round_to` that removes at most `sparsity` of them.

    With `nearest` the nearest multiple instead, as in Quark, which may remove more than requested. Never more than `units`.
    Raises UsageError if nothing would stay, or for an impossible rounding or sparsity.
    """
    if not 0 <= sparsity < 1:
        raise UsageError(f"A sparsity of {sparsity} is impossible: give a number of at least 0 and below 1")
    if not 1 <= round_to <= units:
        raise UsageError(f"{units} units cannot be rounded to multiples of {round_to}: give 1 to {units}")
    # Exact fractions: 0.29 of 100 is 29 and a third of 3 is 1, but binary numbers only come close.
    stay = units * (1 - Fraction(sparsity).limit_denominator(10**9))
    kept = round_to * (round(stay / round_to) if nearest else math.ceil(stay / round_to))
    if kept == 0:
        raise UsageError(
            f"None of {units} units would stay at sparsity {sparsity} in multiples of {round_to}: lower one of the two"
        )
    return min(kept, units)
