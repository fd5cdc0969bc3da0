"""Which linears of a block can be pruned."""

import inspect
import re
from collections.abc import Container, Iterator
from functools import cache

from torch import nn
from transformers.pytorch_utils import Conv1D

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.experts import AnyExperts, Experts

_OWN_PRODUCT = re.compile(r"self\.(\w+)\.weight @")


def linears_in(block: nn.Module) -> Iterator[tuple[nn.Module, int | None]]:
    """Yield a block's prunable linears in module order, each with the number of its expert, None outside of experts.

    Leaves out routers and gates of shared experts, which are small and decide where each token goes, and those of
    `uncalled_in`.
    """
    experts: dict[int, int] = {}
    passed_over = {id(module) for _, module in uncalled_in(block)}
    for module in block.modules():
        if isinstance(module, AnyExperts):
            experts |= {id(linear): number for number, each in enumerate(module) for linear in each.children()}
        passed_over |= {id(linear) for linear in _routers(module)}
    for module in block.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) not in passed_over:
            yield module, experts.get(id(module))


def linear_shapes(block: nn.Module) -> list[tuple[nn.Module, list[tuple[int, int]]]]:
    """Return the modules with prunable linears of a block, loaded or not, with (out, in) of each linear."""
    found = []
    prunable = {id(linear) for linear, _ in linears_in(block)}
    for parent in block.modules():
        linears = [child for child in parent.children() if isinstance(child, (nn.Linear, Conv1D))]
        stored = [(child, tuple(child.weight.shape)) for child in linears if id(child) in prunable]
        shapes = [(i, o) if isinstance(linear, Conv1D) else (o, i) for linear, (o, i) in stored]
        found += [(parent, shapes)] if shapes else []
    return found


def check_block(block: nn.Module, kind: str, own: Container[int], *, mixture: bool) -> None:
    """Raise LangpruneError for a block with linears of other blocks, or with stacked matrices that no linear holds.

    kind: the model's class; own: ids of the modules whose parameters belong to this block; mixture: whether the model
    has experts.
    """
    for path, module in block.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) not in own:
            raise LangpruneError(
                f"{kind} uses the same linears in several blocks, so that they cannot be pruned block by block: this family is "
                "not supported"
            )
        stacked = any(parameter.dim() > 2 for parameter in module.parameters(recurse=False))
        of_experts = mixture and "expert" in f"{path} {type(module).__name__}".lower()
        # Other parameters of three dimensions (rwkv, recurrent_gemma) belong to a kernel, and stay as they are.
        if stacked and (of_experts or isinstance(module, (nn.Linear, Conv1D))):
            raise LangpruneError(
                f"{kind} keeps several matrices in one tensor of {path}, in a layout that is not known: this family is not "
                "supported"
            )


def _routers(module: nn.Module) -> Iterator[nn.Linear]:
    """Yield the router and the shared expert's gate beside a module's experts."""
    experts = [child for child in module.children() if isinstance(child, AnyExperts)]
    counts = {child.form.routed if isinstance(child, Experts) else len(child) for child in experts}
    for child in module.children() if counts else ():
        linears = [each for each in child.modules() if isinstance(each, nn.Linear)]
        if not isinstance(child, AnyExperts) and len(linears) == 1 and linears[0].out_features in counts | {1}:
            yield linears[0]


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
