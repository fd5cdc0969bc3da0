"""Describes refinements, which improve a finished mask before `apply`: a record and a function in one file each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.refinements as package
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Needs, Site
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class Refinement:
    """One way to swap kept and pruned weights of a site's linears, for any mask.

    Each row, or for N:M each group of M, keeps as many weights as before; a tail shorter than M does not change.
    """

    name: str
    needs: Needs
    paper: str
    refine: Callable[[Site, Tensor, Pattern], Tensor]  # (site, keep bool [r, i], pattern) -> keep bool [r, i]

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Pickle by name."""
        return get_refinement, (self.name,)


def refinements() -> dict[str, Refinement]:
    """Return every refinement of this package by name."""
    return records(package, Refinement)


def get_refinement(name: str) -> Refinement:
    """Return the refinement called `name`; raises LangpruneError with the nearest names if there is none."""
    return record(package, Refinement, "--refine", name)
