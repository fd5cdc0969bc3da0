"""Experts of stock models that no token goes to. Without langprune, so that processes that lack it can use this."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NEVER = float("-inf")


@dataclass(frozen=True)
class Unpicked:
    """Experts of a block that its router is not to pick."""

    block: int
    experts: tuple[int, ...]
    router: Mapping[str, int]  # path in the block of each tensor that has an entry for each expert -> the dimension


class _Masked(TorchFunctionMode):
    """Puts -inf into the products with a router's weight, at the experts that are not to be picked."""

    def __init__(self, weights: list[Tensor], experts: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.experts = weights, list(experts)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is nn.functional.linear and any(args[1] is each for each in self.weights):
            made[..., self.experts] = _NEVER
        return made


@contextmanager
def never_picked(block: nn.Module, unpicked: Unpicked) -> Iterator[None]:
    """Mask the router's logits, and what is added to them to choose."""
    named = block.state_dict(keep_vars=True)
    with torch.no_grad():
        for path, dim in unpicked.router.items():
            if path.endswith("bias"):
                named[path].index_fill_(dim, torch.tensor(unpicked.experts), _NEVER)
    with _Masked([named[path] for path in unpicked.router if path.endswith("weight")], unpicked.experts):
        yield
