"""Describes pruning methods, a record and one or two functions in one file each, and finds them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.methods as package
from langprune_cli.defaults import Propagation
from langprune_cli.numerics.patterns import Group, Pattern, Ties
from langprune_cli.numerics.site import Needs, Site, Solution
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class Method:
    """One way to score the weights of a site's linears; a joint method also chooses and updates them together."""

    name: str
    needs: Needs  # the statistics that it reads
    group: Group  # the default group to compare weights within
    ties: Ties
    paper: str
    score: Callable[[Tensor, Site], Tensor]  # (W [o, i] of one linear, its site) -> float32 [o, i], higher = keep
    solve: Callable[[Site, Pattern], Solution] | None = None
    by_rows: bool = False  # whether a row's scores depend on that row and the statistics alone
    update: str = "none"  # the update that belongs to the method; for a joint method it gives the same weights
    propagation: Propagation = "pruned"  # of `prune`, unless one is asked for

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Pickle by name."""
        return get_method, (self.name,)


def methods() -> dict[str, Method]:
    """Return every method of this package by name, from the METHOD record of its module."""
    return records(package, Method)


def get_method(name: str) -> Method:
    """Return the method called `name`; raises LangpruneError with the nearest names if there is none."""
    return record(package, Method, "--method", name)
