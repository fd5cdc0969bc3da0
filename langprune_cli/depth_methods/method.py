"""Describes methods for whole blocks, a record and a function in one file, and finds them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

import langprune_cli.depth_methods as package
from langprune_cli.errors import LangpruneError
from langprune_cli.models.composites import held_blocks
from langprune_cli.numerics.patterns import prune_count
from langprune_cli.registry import method_of, records
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True)
class Depth:
    """A choice of blocks, and the figures behind it."""

    blocks: tuple[int, ...]  # to keep, ascending
    record: dict[str, object]  # ready for JSON: "method", "removed" (block indices), and the method's measurements


@dataclass(frozen=True)
class DepthMethod:
    """A method that chooses blocks by calibration windows alone."""

    name: str
    paper: str
    choose: Callable[[OpenedModel, Tensor, float, Reporter], Depth]  # (model, windows [n, t], sparsity, reporter)
    update: str = "none"  # kept blocks do not change
    by_losses: bool = False  # whether it reads logits, and so depends on the model's head


def depth_methods() -> dict[str, DepthMethod]:
    """Return all methods of this package by name: each module with a METHOD record."""
    return records(package, DepthMethod)


def get_depth_method(name: str) -> DepthMethod:
    """Return the method called `name`; raises LangpruneError with the nearest names if it is unknown."""
    return method_of(package, DepthMethod, "blocks", name)


def blocks_that_stay(total: int, sparsity: float) -> int:
    """Return the number of blocks to keep, total - floor(total x sparsity).

    Raises LangpruneError if that removes none, or all.
    """
    removed = prune_count(total, sparsity)
    if not removed:
        raise LangpruneError(
            f"--sparsity {sparsity:g} removes none of {total} blocks: give {math.ceil(1000 / total) / 1000:g} or more"
        )
    if removed == total:
        raise LangpruneError(f"--sparsity {sparsity:g} removes all {total} blocks: at least one must stay, give less")
    return total - removed


def free_blocks(model: OpenedModel, count: int) -> list[int]:
    """Return the blocks that may leave: all but those that images need where they are (`held_blocks`).

    Raises LangpruneError for fewer than `count`, the number that is to leave.
    """
    held = held_blocks(model.config)
    free = [index for index in range(len(model.streamed.blocks)) if index not in held]
    if len(free) < count:
        raise LangpruneError(
            f"{count} of the {len(model.streamed.blocks)} blocks of {model.label} are to leave and only {len(free)} can, since "
            f"this {model.config.model_type} puts what it sees of images between the others by their numbers: remove fewer"
        )
    return free


def without(total: int, removed: Sequence[int], figures: dict[str, object]) -> Depth:
    """Return the choice that removes these of `total` blocks, with the figures behind it."""
    stay = tuple(index for index in range(total) if index not in removed)
    return Depth(stay, figures | {"removed": list(removed)})
