"""Describes methods for whole experts, a record and a function in one file, and finds them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.expert_methods as package
from langprune_cli.numerics.routing import Routing
from langprune_cli.registry import method_of, records


@dataclass(frozen=True)
class ExpertMethod:
    """A method that scores the experts of a block."""

    name: str
    paper: str
    score: Callable[[Routing], Tensor]  # sums of a block -> float64 [e]; experts with the lowest scores leave
    update: str = "none"  # kept experts do not change


def expert_methods() -> dict[str, ExpertMethod]:
    """Return all methods of this package by name: each module with a METHOD record."""
    return records(package, ExpertMethod)


def get_expert_method(name: str) -> ExpertMethod:
    """Return the method called `name`; raises LangpruneError with the nearest names if it is unknown."""
    return method_of(package, ExpertMethod, "experts", name)


def chosen(
    scores: Tensor,  # float64 [e]
    left: int,
    groups: int = 1,
) -> tuple[int, ...]:
    """Return the numbers of the experts that stay, ascending: those with the highest scores; of equals the earlier leave.

    groups: consecutive experts that a router chooses among first; each of them keeps the same number.
    """
    size = len(scores) // groups
    stay: list[int] = []
    for group in range(groups):
        own = scores[group * size : (group + 1) * size].tolist()
        worst = sorted(range(size), key=own.__getitem__)  # stable
        stay += [group * size + expert for expert in worst[size - left // groups :]]
    return tuple(sorted(stay))
