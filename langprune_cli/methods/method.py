"""What a pruning method is: a record and one or two functions, one file each; this module describes and finds them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.methods as package
from langprune_cli.numerics.patterns import Group, Pattern, Ties
from langprune_cli.numerics.site import Needs, Site, Solution
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class Method:
    """One way to say how important each weight of a site's linears is; a joint one also chooses and updates together."""

    name: str
    needs: Needs  # what `calibrate` must have collected
    group: Group  # what weights are compared within, unless the user says otherwise
    ties: Ties
    paper: str
    score: Callable[[Tensor, Site], Tensor]  # (W [o, i] of one linear, its site) -> float32 [o, i], higher = keep
    solve: Callable[[Site, Pattern], Solution] | None = None
    by_rows: bool = False  # whether the scores of a row follow from that row and the statistics alone
    update: str = "none"  # the update that belongs to the method; a joint one's weights are that update's of its mask

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Go to another process by name."""
        return get_method, (self.name,)


def methods() -> dict[str, Method]:
    """Return every method of this package by name: a module with a METHOD record is one."""
    return records(package, Method)


def get_method(name: str) -> Method:
    """Return the method called `name`; raises LangpruneError with the nearest names when there is none."""
    return record(package, Method, "--method", name)
