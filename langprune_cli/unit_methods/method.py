"""What a method for structured pruning is: a record and a function, one file each; this module describes and finds them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.unit_methods as package
from langprune_cli.numerics.site import Needs
from langprune_cli.numerics.units import UnitSite, highest
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class UnitMethod:
    """One way to choose which units of an axis, channels or kv-groups, stay in a block."""

    name: str
    needs: Needs  # what `calibrate` must have collected
    paper: str
    choose: Callable[[UnitSite, int], Tensor]  # (site, how many units stay) -> keep, bool [units]
    update: str  # the update that belongs to the method

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Go to another process by name."""
        return get_unit_method, (self.name,)


def by_score(score: Callable[[UnitSite], Tensor]) -> Callable[[UnitSite, int], Tensor]:
    """Return what chooses the units with the highest scores [units]; it raises ValueError for an impossible number of them."""

    def choose(site: UnitSite, stay: int) -> Tensor:
        site.check_stay(stay)
        return highest(score(site), stay)

    return choose


def unit_methods() -> dict[str, UnitMethod]:
    """Return every method of this package by name: a module with a METHOD record is one."""
    return records(package, UnitMethod)


def get_unit_method(name: str) -> UnitMethod:
    """Return the method called `name`; raises LangpruneError with the nearest names when there is none."""
    return record(package, UnitMethod, "--method", name)
