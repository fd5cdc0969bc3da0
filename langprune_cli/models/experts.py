"""Experts of a mixture as separate linears, as checkpoints store them.

transformers merges a block's experts into two three-dimensional parameters when it loads a model. Here they stay separate, so
that pruning treats each expert's three linears like any others: hooks see their inputs, and artifacts use their checkpoint
names.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Protocol, TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.pytorch_utils import Conv1D

_OWN_PRODUCT = re.compile(r"self\.(\w+)\.weight @")
_MERGED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}  # parameter -> linears of an expert
# By these an experts module of transformers declares a layout other than [gate; up] without biases.
_OTHER_LAYOUTS = {
    "has_gate": False, "has_bias": True, "is_transposed": True, "is_concatenated": False, "has_post_expert_norm": True,
}  # fmt: skip


class _Merged(Protocol):
    """An experts module of transformers."""

    down_proj: Tensor  # [e, h, w]: experts, hidden, width

    def _apply_gate(self, gate_up: Tensor) -> Tensor: ...


class Expert(nn.Module):
    """One expert: a gated feed-forward layer."""

    def __init__(self, hidden: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False, device="meta", dtype=dtype)
        self.up_proj = nn.Linear(hidden, width, bias=False, device="meta", dtype=dtype)
        self.down_proj = nn.Linear(width, hidden, bias=False, device="meta", dtype=dtype)


class Experts(nn.ModuleList):
    """Replaces a family's experts module, and computes the same with the family's own activation."""

    def __init__(self, merged: _Merged) -> None:
        """Take the place of `merged`, whose parameters are on meta."""
        count, hidden, width = merged.down_proj.shape
        super().__init__(Expert(hidden, width, merged.down_proj.dtype) for _ in range(count))
        self._merged = (merged,)  # in a tuple, so that torch does not register its parameters here
        self.every_token = False  # whether each expert sees every token; only those routed to it count

    def forward(
        self,
        hidden_states: Tensor,  # [t, h]
        top_k_index: Tensor,  # [t, k], the experts of each token
        top_k_weights: Tensor,  # [t, k]
    ) -> Tensor:  # [t, h]
        """Return the sum of each token's expert outputs, weighted by the router."""
        total = torch.zeros_like(hidden_states)
        for index, expert in enumerate(cast("Iterator[Expert]", iter(self))):
            tokens, choice = (top_k_index == index).nonzero(as_tuple=True)
            if self.every_token:
                made = self._run(expert, hidden_states)[tokens]
            elif len(tokens):
                made = self._run(expert, hidden_states[tokens])
            else:
                continue
            total.index_add_(0, tokens, (made * top_k_weights[tokens, choice, None]).to(total.dtype))
        return total

    def _run(self, expert: Expert, x: Tensor) -> Tensor:
        gate_up = torch.cat([expert.gate_proj(x), expert.up_proj(x)], -1)
        made: Tensor = expert.down_proj(self._merged[0]._apply_gate(gate_up))  # noqa: SLF001 - the family's own activation
        return made


def separate_experts(model: nn.Module) -> None:
    """Replace every experts module that transformers merges on loading by `Experts`.

    Leaves experts alone that checkpoints store merged or in another layout.
    """
    rules = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightConverter)]
    if {name for rule in rules for name in _merged_by(rule)} != _MERGED.keys():
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _is_known(child):
                setattr(parent, name, Experts(child))


def _is_known(module: object) -> TypeGuard[_Merged]:
    if not isinstance(module, nn.Module):
        return False
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if shapes.keys() != _MERGED.keys() or any(len(shape) != 3 for shape in shapes.values()):
        return False
    if any(getattr(module, name, not other) == other for name, other in _OTHER_LAYOUTS.items()):
        return False
    count, hidden, width = shapes["down_proj"]
    return hasattr(module, "_apply_gate") and shapes["gate_up_proj"] == (count, 2 * width, hidden)


def linears_in(block: nn.Module) -> Iterator[tuple[nn.Module, int | None]]:
    """Yield a block's prunable linears in module order, each with the number of its expert, None outside of experts.

    Leaves out routers and gates of shared experts, which are small and decide where each token goes, and those of
    `uncalled_in`.
    """
    experts: dict[int, int] = {}
    passed_over = {id(module) for _, module in uncalled_in(block)}
    for module in block.modules():
        if isinstance(module, Experts):
            experts |= {id(linear): number for number, each in enumerate(module) for linear in each.children()}
        if any(isinstance(child, Experts) for child in module.children()):
            passed_over |= {id(child) for child in module.children() if isinstance(child, nn.Linear)}
    for module in block.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) not in passed_over:
            yield module, experts.get(id(module))


def uncalled_in(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linears of a block, with their paths, that no forward pass calls: hooks cannot see their inputs.

    The code around them multiplies by their weights itself: dt_proj of mamba, falcon_mamba and jamba.
    """
    for path, module in block.named_modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and name in _multiplied_by(type(module)):  # type: ignore[arg-type] # classes hash
                yield f"{path}.{name}" if path else name, child


@cache
def _multiplied_by(kind: type[nn.Module]) -> frozenset[str]:
    """Return the names of the modules whose weights a class multiplies by in its own code."""
    try:
        return frozenset(_OWN_PRODUCT.findall(inspect.getsource(kind)))
    except (OSError, TypeError):  # no source: such linears come up as missing when statistics are read
        return frozenset()


def expert_path(rules: Iterable[WeightConverter], path: str) -> str:
    """Return the module path of a checkpoint tensor; only names of experts' linears differ from it.

    rules: transformers' conversions for the family; some of them merge experts. mixtral's "mlp.experts.3.w1.weight" is
    "mlp.experts.3.gate_proj.weight" here.
    """
    for rule in rules:
        for name, before in _merged_by(rule).items():
            for source, linear in zip(rule.source_patterns, _MERGED[name], strict=True):
                pattern = re.escape(source).replace(r"\*", r"(\d+)")
                found = re.search(f"{pattern}$", path)
                if found:
                    return f"{path[: found.start()]}{before}.experts.{found[1]}.{linear}.weight"
    return path


def _merged_by(rule: WeightConverter) -> dict[str, str]:
    """Return the parameter that a conversion merges experts into, with the start of its path; nothing for other conversions."""
    before, _, name = rule.target_patterns[0].rpartition(".experts.")
    fits = name in _MERGED and len(rule.source_patterns) == len(_MERGED[name])
    return {name: before} if fits else {}
