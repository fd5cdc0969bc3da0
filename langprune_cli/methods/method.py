"""What a pruning method is: a record and a function, one file each; this module describes and finds them."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

import langprune_cli.methods as package
from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.numerics.patterns import Group, Ties


@dataclass(frozen=True)
class SiteStats:
    """Statistics of the tensor that a linear reads: sums over all tokens of all windows."""

    sum_sq: Tensor  # float64 [i]
    sum_x: Tensor  # float64 [i]
    tokens: int
    windows: int

    def to(self, device: torch.device) -> "SiteStats":
        """Return the same statistics on `device`."""
        return replace(self, sum_sq=self.sum_sq.to(device), sum_x=self.sum_x.to(device))


@dataclass(frozen=True)
class Method:
    """One way to say how important each weight of a linear is."""

    name: str
    needs: Literal["nothing", "norms"]  # what `calibrate` must have collected
    group: Group  # what weights are compared within, unless the user says otherwise
    ties: Ties
    paper: str
    score: Callable[[Tensor, SiteStats | None], Tensor]  # (W [o, i], statistics) -> float32 [o, i], higher = keep


@cache
def methods() -> dict[str, Method]:
    """Return every method of this package by name: a module with a METHOD record is one."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        record = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "METHOD", None)
        if isinstance(record, Method):
            found[record.name] = record
    return found


def get_method(name: str) -> Method:
    """Return the method called `name`; raises LangpruneError with the nearest names when there is none."""
    if name not in methods():
        raise LangpruneError(f"--method {name!r} is unknown: {near_matches(name, methods())}")
    return methods()[name]


def need(stats: SiteStats | None) -> SiteStats:
    """Return `stats`; raises ValueError where a method that needs them was called without."""
    if stats is None:
        raise ValueError("this method needs column norms")
    return stats
