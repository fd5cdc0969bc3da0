"""`compare`: the similarity of statistics, scores or masks of one model, by pair and by block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.numerics.overlap import (
    Agreement,
    Divergence,
    Figures,
    Overlap,
    agreement_of,
    divergence_of,
    overlap_of,
    total,
)
from langprune_cli.stages.combine.experts_used import ExpertsUsed, experts_used
from langprune_cli.stages.statistics.collecting import need_norms, read_block_stats
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.stages.structured.keep_masks import MaskReader
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.structured_patterns.pattern import need_bits

Sums = Overlap | Agreement | Divergence


@dataclass(frozen=True)
class Cell:
    """The similarity of two artifacts in one kind of linear in one block."""

    block: int
    linear: str  # the last words of their names: self_attn.q_proj; for statistics those of the site's first linear
    sums: Sums


@dataclass(frozen=True)
class Pair:
    """The comparison of two artifacts."""

    one: str
    other: str
    cells: tuple[Cell, ...]

    @property
    def whole(self) -> Figures:
        """Return the figures over all blocks."""
        return _figures(self.cells)

    @property
    def blocks(self) -> dict[int, Figures]:
        """Return the figures of each block."""
        found = dict.fromkeys(cell.block for cell in self.cells)
        return {block: _figures([cell for cell in self.cells if cell.block == block]) for block in found}

    @property
    def linears(self) -> dict[str, Figures]:
        """Return the figures of each kind of linear, over all blocks."""
        found = dict.fromkeys(cell.linear for cell in self.cells)
        return {linear: _figures([cell for cell in self.cells if cell.linear == linear]) for linear in found}

    def record(self) -> dict[str, object]:
        """Return all figures for JSON, with those of each block and kind of linear for a heat map."""
        return {
            "one": self.one,
            "other": self.other,
            "whole": self.whole,
            "blocks": [{"block": block} | figures for block, figures in self.blocks.items()],
            "linears": [{"linear": linear} | figures for linear, figures in self.linears.items()],
            "cells": [
                {"block": cell.block, "linear": cell.linear} | cell.sums.figures() for cell in self.cells
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Several artifacts of one kind, compared in pairs."""

    kind: str
    pairs: tuple[Pair, ...]
    experts: tuple[ExpertsUsed, ...] = ()  # of statistics of a mixture


def compare_artifacts(artifacts: Sequence[Artifact], model: OpenedModel | None, reporter: Reporter) -> Comparison:
    """Compare artifacts of one kind, with one block of each in memory.

    model: the masks' model, for the widths of its matrices; None for statistics and scores.
    Raises UsageError for fewer than two artifacts, LangpruneError for artifacts of several models, token counts, masks of
    blocks or of tokens, and artifacts without a common linear.
    """
    if len(artifacts) < 2:
        raise UsageError("compare needs two or more artifacts: name another")
    way = _way(artifacts, model)
    first, *others = artifacts
    for other in others:
        if other.manifest.inputs.get("model") != first.manifest.inputs.get("model"):
            names = [each.manifest.about["model"]["name"] for each in (first, other)]
            raise LangpruneError(
                f"{first.manifest.kind} {first.name} and {other.name} are of different models ({names[0]} and {names[1]}): "
                "compare artifacts of one model"
            )
    blocks = max(sum(part.startswith("block-") for part in each.manifest.parts) for each in artifacts)
    cells: dict[tuple[int, int], list[Cell]] = {pair: [] for pair in combinations(range(len(artifacts)), 2)}
    reporter.begin("compare", blocks, 0)
    for index in range(blocks):
        held = [way.read(artifact, index) for artifact in artifacts]
        for (left, right), found in cells.items():
            _check_shapes(artifacts[left], artifacts[right], held[left], held[right])
            found.extend(way.cells(index, held[left], held[right]))
        reporter.tick(index, 0)
    reporter.end()
    pairs = tuple(
        Pair(artifacts[left].name, artifacts[right].name, tuple(found)) for (left, right), found in cells.items()
    )
    for pair in pairs:
        if not pair.cells:
            raise LangpruneError(
                f"{first.manifest.kind} {pair.one} and {pair.other} have no linear in common: compare others"
            )
    return Comparison(first.manifest.kind, pairs, experts_used(artifacts) if first.manifest.kind == "stats" else ())


def linear_kind(name: str) -> str:
    """Return the last words of a checkpoint tensor's name, without numbers: self_attn.q_proj, experts.w1."""
    return ".".join([word for word in name.split(".")[:-1] if not word.isdecimal()][-2:])


def _figures(cells: Sequence[Cell]) -> Figures:
    return total([cell.sums for cell in cells]).figures()  # type: ignore[type-var] # all of one type


@dataclass(frozen=True)
class _Way:
    """The way to compare artifacts of one kind."""

    read: Callable[[Artifact, int], dict[str, Tensor]]  # a block's tensors, by linear or site
    sums_of: Callable[[Tensor, Tensor], Sums]
    absent: Callable[[Tensor], Tensor] | None = None  # replaces a tensor that only the other has; None: skip it

    def cells(self, index: int, one: dict[str, Tensor], other: dict[str, Tensor]) -> list[Cell]:
        """Return the cells of one block."""
        found: dict[str, list[Sums]] = {}
        for name in one | other:
            tensor, another = one.get(name), other.get(name)
            if self.absent and tensor is None:
                tensor = self.absent(other[name])
            if self.absent and another is None:
                another = self.absent(one[name])
            if tensor is not None and another is not None:
                found.setdefault(linear_kind(name), []).append(self.sums_of(tensor, another))
        return [Cell(index, linear, total(sums)) for linear, sums in found.items()]  # type: ignore[type-var] # all of one type


def _way(artifacts: Sequence[Artifact], model: OpenedModel | None) -> _Way:
    """Return the way to compare these artifacts; raises LangpruneError for token counts, and masks of blocks or tokens."""
    kind = artifacts[0].manifest.kind
    if kind == "stats":
        for each in artifacts:
            need_norms("compare", each)
        return _Way(_mean_squares, divergence_of)  # skips experts that only one of the texts reached
    if kind == "scores":
        return _Way(lambda artifact, index: artifact.tensors(block_part(index)), agreement_of)
    if model is None:
        raise ValueError("comparing masks needs their model")
    for each in artifacts:
        need_bits("compare", each)
    readers = {each.key: MaskReader(each, model) for each in artifacts}
    # A linear that a mask leaves dense counts as kept whole.
    return _Way(lambda artifact, index: readers[artifact.key].by_name(index), overlap_of, torch.ones_like)


def _check_shapes(one: Artifact, other: Artifact, of_one: dict[str, Tensor], of_other: dict[str, Tensor]) -> None:
    """Raise LangpruneError if a block's tensors of one name differ in shape: another program made one of them."""
    for name in sorted(of_one.keys() & of_other.keys()):
        if of_one[name].shape != of_other[name].shape:
            shapes = f"{list(of_one[name].shape)} and {list(of_other[name].shape)}"
            raise LangpruneError(
                f"{one.manifest.kind} {one.name} and {other.name} hold {name} in two shapes ({shapes}): "
                "make the one with the wrong shape again with --force"
            )


def _mean_squares(stats: Artifact, index: int) -> dict[str, Tensor]:
    """Return the mean over tokens of x squared, float64 [i] by site."""
    block = read_block_stats(stats, block_part(index))
    return {site: block.tensors[f"{site}/sum_sq"] / block.tokens(site) for site in block.sites}
