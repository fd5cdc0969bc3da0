"""Describes methods for the hidden size, a record and a function in one file, and finds them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.hidden_methods as package
from langprune_cli.registry import method_of, records


@dataclass(frozen=True)
class HiddenMethod:
    """A method that chooses the coordinates of the residual stream that stay."""

    name: str
    paper: str
    # (sum of t tᵀ of what norms and linears read, float64 [d, d], k) -> the new coordinates, orthonormal columns, float64 [d, k]
    turn: Callable[[Tensor, int], Tensor]
    update: str = "none"  # every tensor is new already


def hidden_methods() -> dict[str, HiddenMethod]:
    """Return all methods of this package by name: each module with a METHOD record."""
    return records(package, HiddenMethod)


def get_hidden_method(name: str) -> HiddenMethod:
    """Return the method called `name`; raises LangpruneError with the nearest names if it is unknown."""
    return method_of(package, HiddenMethod, "hidden", name)
