"""Describes updates, by which `apply` changes the kept weights: a record and a function in one file each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.updates as package
from langprune_cli.numerics.site import Needs, Site, Solution
from langprune_cli.registry import record, records


@dataclass(frozen=True)
class Update:
    """One way to give the kept weights of a site's linears new values, on any fixed mask."""

    name: str
    needs: Needs
    paper: str
    update: Callable[[Site, Tensor], Solution]  # (site, keep [r, i]) -> that mask with new weights

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        """Pickle by name."""
        return get_update, (self.name,)


def updates() -> dict[str, Update]:
    """Return every update of this package by name."""
    return records(package, Update)


def get_update(name: str) -> Update:
    """Return the update called `name`; raises LangpruneError with the nearest names if there is none."""
    return record(package, Update, "--update", name)
