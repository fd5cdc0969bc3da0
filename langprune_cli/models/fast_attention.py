"""Replaces torch's attention by `causal_attention` in blocks that choose theirs through transformers' AttentionInterface."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import getmembers, isfunction, signature, unwrap
from typing import Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from langprune_cli.machine.attention import causal_attention, is_faster

_NAME = "langprune_causal"
_TORCHS = "sdpa"  # transformers' name for torch's attention
_torchs_attention = AttentionInterface()[_TORCHS]
_KNOWN = {*signature(_torchs_attention).parameters, "softcap"} - {
    "dropout"
}  # the arguments that it reads in this version of transformers


class _Configuration(Protocol):
    _attn_implementation: str | None


def _attention(
    module: nn.Module,
    query: Tensor,  # [b, h, t, d]
    key: Tensor,  # [b, g, t, d]; g divides h
    value: Tensor,  # [b, g, t, v]
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,  # None: the module's own
    **more: object,
) -> tuple[Tensor, None]:  # [b, t, h, v], and no probabilities
    """Attention with the signature that transformers' models call: `causal_attention` where it fits, else torch's."""
    asked = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = attention_mask is None and not more.get("dropout") and all(more.get(name) is None for name in _KNOWN)
    if asked and plain and is_faster(query, key):
        return causal_attention(query, key, value, scaling).transpose(1, 2).contiguous(), None
    found: tuple[Tensor, None] = _torchs_attention(
        module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **more
    )
    return found


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, AttentionMaskInterface()[_TORCHS])  # the same masks as torch's


@contextmanager
def fast_attention(block: nn.Module) -> Iterator[None]:
    """Give a block that asks for torch's attention `causal_attention` instead, where it fits and without gradients."""
    configurations = _configurations(block)
    for each in configurations:
        each._attn_implementation = _NAME  # noqa: SLF001 - every model looks it up
    try:
        yield
    finally:
        for each in configurations:
            each._attn_implementation = _TORCHS  # noqa: SLF001 - as above


def _configurations(block: nn.Module) -> list[_Configuration]:
    """Return the configurations by which a block's modules choose torch's attention; none if it must stay.

    It must stay if the block's own code names it: such code makes other masks for any other name.
    """
    modules = list(block.modules())
    kinds: set[type] = {type(module) for module in modules}
    if any(_names_torchs(kind) for kind in kinds):
        return []
    found = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    return [each for each in found.values() if getattr(each, "_attn_implementation", None) == _TORCHS]


@cache
def _names_torchs(kind: type) -> bool:
    """Return whether a method of the module has the name of torch's attention as a constant, alone or in a tuple or set."""
    for _, method in getmembers(kind, isfunction):
        for constant in unwrap(method).__code__.co_consts:
            if _TORCHS in (constant if isinstance(constant, (tuple, frozenset)) else (constant,)):
                return True
    return False
