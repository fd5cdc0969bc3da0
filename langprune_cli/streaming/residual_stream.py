"""Finds what a block writes to its residual stream, from the values of one forward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from langprune_cli.models.streamed import Block

_TOKENS, _WIDTH = 64, 512  # values of so many tokens and columns are thousands of equations for each unknown factor
_ROUNDINGS = 4.0  # the root mean square of what may remain unexplained, in units of the last place of the largest term
_LEAST = 0.05  # a smaller factor is noise: multipliers of real families are above 0.1
_DIGITS = 3  # of factors: rounding of the values leaves no more
_MOST_OTHERS = 2  # modules besides linears that write: experts, norms behind linears


@dataclass(frozen=True)
class Stream:
    """How a block's output is composed: `kept` times its input, and the outputs of some modules times their factors."""

    kept: float
    factors: Mapping[str, float]  # by path of each module in the block, in the order of their calls


NO_STREAM = Stream(1.0, {})


def find_stream(
    block: Block,
    hidden: Tensor,  # [b, t, h], input of the block
    output: Tensor,  # [b, t, h]
    outputs: Mapping[nn.Module, Tensor],  # of the block's modules, in the order of their calls
) -> Stream:
    """Return the composition of a block's output from its input and what modules of the block put out.

    Least squares finds it. Simple ones are tried first: linears alone, then with one and two other modules, and all of that with
    a factor of the input. If none explains the output to its last digits, nothing is known of the stream.
    """
    paths = {module: path for path, module in block.module.named_modules()}
    linears = {linear.module for linear in block.linears if linear.expert is None}
    few = _few(hidden)
    alike = [module for module, each in outputs.items() if each.numel() == hidden.numel() and module in paths]
    values: dict[nn.Module, Tensor] = {}
    for module in sorted(alike, key=lambda each: each not in linears):
        value = few(outputs[module])
        # A module that ends in a linear puts out the same.
        if not any(torch.equal(value, other) for other in values.values()):
            values[module] = value
    before, after = few(hidden), few(output)
    if not all(bool(torch.isfinite(each).all()) for each in (before, after, *values.values())):
        return NO_STREAM  # whoever collects statistics says which values are not finite
    unit = torch.finfo(output.dtype).eps * torch.stack([before, after, *values.values()]).abs().amax(0)
    unit.clamp_(min=torch.finfo(torch.float32).tiny)
    own, others = [each for each in values if each in linears], [each for each in values if each not in linears]
    for free in (False, True):
        for more in (each for number in range(_MOST_OTHERS + 1) for each in combinations(others, number)):
            terms = [values[module] for module in (*own, *more)]
            found = _fit(after, [before, *terms], unit) if free else _fit(after - before, terms, unit)
            if found is not None:
                kept, *rest = found if free else [1.0, *found]
                factors = {module: factor for module, factor in zip((*own, *more), rest, strict=True) if factor}
                return Stream(kept, {paths[module]: factors[module] for module in outputs if module in factors})
    return NO_STREAM


def _few(hidden: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what takes the same few values of every tensor of the shape of `hidden`, float64 [n] on the CPU."""
    width = hidden.shape[-1]
    tokens = torch.linspace(0, hidden.numel() // width - 1, _TOKENS, device=hidden.device).long()
    columns = torch.arange(0, width, -(-width // _WIDTH), device=hidden.device)
    return lambda tensor: tensor.reshape(-1, width)[tokens[:, None], columns].flatten().double().cpu()


def _fit(target: Tensor, terms: Sequence[Tensor], unit: Tensor) -> list[float] | None:
    """Return the factors of `terms` whose sum is `target` [n] to a few units of each value, None if there are none."""
    if not terms:
        return None
    matrix = torch.stack([term / unit for term in terms], dim=1)
    wanted = target / unit
    factors = torch.linalg.lstsq(matrix, wanted[:, None], driver="gelsd").solution[:, 0]
    if bool((wanted - matrix @ factors).square().mean() > _ROUNDINGS**2):
        return None
    return [float(f"{each:.{_DIGITS}g}") if abs(each) >= _LEAST else 0.0 for each in factors.tolist()]
