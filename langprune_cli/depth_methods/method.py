"""What a method for whole blocks is: a record and a function, one file each; this module describes and finds them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.depth_methods as package
from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.numerics.patterns import prune_count
from langprune_cli.registry import records
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True)
class Depth:
    """Which blocks stay, and the figures that it was decided by."""

    blocks: tuple[int, ...]  # that stay, ascending
    record: dict[str, object]  # ready for JSON: "method", "removed" (block indices), and what the method measured


@dataclass(frozen=True)
class DepthMethod:
    """One way to choose which blocks stay, judged on calibration windows alone."""

    name: str
    paper: str
    choose: Callable[[OpenedModel, Tensor, float, Reporter], Depth]  # (model, windows [n, t], sparsity, reporter)
    update: str = "none"  # blocks that stay are as they were
    by_losses: bool = False  # whether it looks at logits, so that it depends on the model's head


def depth_methods() -> dict[str, DepthMethod]:
    """Return every method of this package by name: a module with a METHOD record is one."""
    return records(package, DepthMethod)


def get_depth_method(name: str) -> DepthMethod:
    """Return the method called `name`; raises LangpruneError with the nearest names when there is none."""
    known = depth_methods()
    if name not in known:
        raise LangpruneError(f"{name!r} is no method for --pattern blocks: {near_matches(name, known)}")
    return known[name]


def blocks_that_stay(total: int, sparsity: float) -> int:
    """Return how many of `total` blocks stay: the whole part of total x sparsity goes.

    Raises LangpruneError when that would remove none, or all.
    """
    removed = prune_count(total, sparsity)
    if not removed:
        raise LangpruneError(
            f"--sparsity {sparsity:g} removes none of {total} blocks: give {math.ceil(1000 / total) / 1000:g} or more"
        )
    if removed == total:
        raise LangpruneError(f"--sparsity {sparsity:g} removes all {total} blocks: at least one must stay, give less")
    return total - removed


def without(total: int, removed: Sequence[int], figures: dict[str, object]) -> Depth:
    """Return the choice of `total` blocks that removes these, with the figures that it was decided by."""
    stay = tuple(index for index in range(total) if index not in removed)
    return Depth(stay, figures | {"removed": list(removed)})
