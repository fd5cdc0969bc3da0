"""Describes methods for channels and KV groups, a record and a function in one file, and finds them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.unit_methods as package
from langprune_cli.defaults import Propagation
from langprune_cli.numerics.site import Needs
from langprune_cli.numerics.units import UnitSite, highest
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class UnitMethod:
    """A method that chooses which units of an axis, channels or KV groups, stay in a block."""

    name: str
    needs: Needs  # the statistics that it reads
    paper: str
    choose: Callable[[UnitSite, int], Tensor]  # (site, number of units to keep) -> keep, bool [units]
    update: str  # the method's own update
    propagation: Propagation = "pruned"  # of `prune`, unless one is asked for

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Pickle by name."""
        return get_unit_method, (self.name,)


def by_score(score: Callable[[UnitSite], Tensor]) -> Callable[[UnitSite, int], Tensor]:
    """Return a choice of the units with the highest scores [units]; it raises ValueError for an impossible number."""

    def choose(site: UnitSite, stay: int) -> Tensor:
        site.check_stay(stay)
        return highest(score(site), stay)

    return choose


def unit_methods() -> dict[str, UnitMethod]:
    """Return all methods of this package by name: each module with a METHOD record."""
    return records(package, UnitMethod)


def get_unit_method(name: str) -> UnitMethod:
    """Return the method called `name`; raises LangpruneError with the nearest names if it is unknown."""
    return record(package, UnitMethod, "--method", name)
