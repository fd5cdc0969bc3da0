"""What a refinement is: how a finished mask is made better before `apply`; a record and a function, one file each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.refinements as package
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Needs, Site
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class Refinement:
    """One way to swap kept and pruned weights of a site's linears, whatever made the mask.

    Each row keeps as many weights as before, and for N:M each group of M does; a tail shorter than M stays as it is.
    """

    name: str
    needs: Needs
    paper: str
    refine: Callable[[Site, Tensor, Pattern], Tensor]  # (site, keep bool [r, i], pattern) -> keep bool [r, i]

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Go to another process by name."""
        return get_refinement, (self.name,)


def refinements() -> dict[str, Refinement]:
    """Return every refinement of this package by name."""
    return records(package, Refinement)


def get_refinement(name: str) -> Refinement:
    """Return the refinement called `name`; raises LangpruneError with the nearest names when there is none."""
    return record(package, Refinement, "--refine", name)
