"""Chooses the pattern of every block, from an allocation and the dense model's statistics."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from langprune_cli.allocations.allocation import Allocation, fit, get_allocation, mix_of_n
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site, Solution, joined
from langprune_cli.stages.solving.choosing import WeightChooser
from langprune_cli.stages.solving.divergences import Divergence
from langprune_cli.stages.solving.known_divergences import Divergences
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.solving.updating import solution_of
from langprune_cli.stages.statistics.sites import BlockSite, block_sites, block_stats, named
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import readable_json
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.updates.update import get_update

ALLOCATION_PART = "allocation.json"


class Share(TypedDict, total=False):
    """What a block or a linear loses: `sparsity`, or of N:M `n` and `m`; `linears` of a block, and `nats` of trials."""

    sparsity: float
    n: int
    m: int
    nats: list[float]
    linears: dict[str, "Share"]  # by checkpoint name


@dataclass(frozen=True)
class BlockPattern:
    """A block's pattern, and those of linears that have their own."""

    pattern: Pattern
    own: Mapping[str, Pattern] = field(default_factory=dict)  # by checkpoint name

    def of(self, linear: Linear) -> Pattern:
        """Return the pattern of a linear."""
        return self.own.get(linear.name, self.pattern)

    def choose(
        self, chooser: AnyChooser, model: OpenedModel, index: int, site: BlockSite
    ) -> tuple[Tensor, Solution | None]:
        """Choose as `chooser` does, each linear of the site by itself if their patterns differ."""
        patterns = [self.of(linear) for linear in site.linears]
        if len(set(patterns)) == 1:
            return chooser.choose(model, index, site, patterns[0])
        found = [chooser.choose(model, index, part, each) for part, each in zip(site.parts(), patterns, strict=True)]
        solutions = [solution for _, solution in found if solution]
        return torch.cat([keep for keep, _ in found]), joined(solutions) if solutions else None


def chosen_allocation(chooser: AnyChooser) -> Allocation:
    """Return the allocation that is asked for; raises what `allocation_for` does."""
    return allocation_for(chooser.settings.allocation, chooser.settings.pattern)


def allocation_for(name: str, pattern: Pattern) -> Allocation:
    """Return the allocation called `name`.

    Raises LangpruneError if there is none, UsageError if it does not go with the pattern.
    """
    allocation = get_allocation(name)
    if pattern.keep_of and allocation.name != "uniform":
        raise UsageError(
            f"--allocation {allocation.name} does not go with --pattern {pattern}, which prunes all blocks alike: "
            f"give --pattern N:{pattern.keep_of[1]} --sparsity {pattern.sparsity:g}"
        )
    return allocation


def block_patterns(
    workspace: Workspace,
    writer: ArtifactWriter,
    model: OpenedModel,
    chooser: AnyChooser,
    stats: Artifact | None,
    reporter: Reporter,
) -> list[BlockPattern]:
    """Return each block's pattern; an allocation's result becomes a part of the mask, and is read from there when resuming.

    stats: of the dense model, if the allocation needs them.
    """
    pattern, blocks = chooser.settings.pattern, len(model.streamed.blocks)
    allocation = chosen_allocation(chooser)
    if isinstance(chooser, WeightChooser):
        _note_uncalled(model, reporter)
    if not isinstance(chooser, WeightChooser) or (allocation.name == "uniform" and not pattern.mix_of):
        return [BlockPattern(pattern)] * blocks
    if not writer.has(ALLOCATION_PART):
        if known := divergences_for(model, chooser, stats):
            found = _spread_over_linears(model, chooser, allocation, known.read(workspace, reporter))
        else:
            found = _spread_over_blocks(model, chooser, allocation, stats, reporter)
        writer.write(ALLOCATION_PART, readable_json({"allocation": allocation.name, "blocks": found}))
    return _recorded(Artifact(writer.folder, writer.manifest))


def divergences_for(model: OpenedModel, chooser: AnyChooser, stats: Artifact | None) -> Divergences | None:
    """Return the divergences that the allocation reads, found or yet to be made; None if it reads none."""
    trials = chosen_allocation(chooser).trials
    return Divergences(model, stats, chooser.settings.solving, trials) if trials and stats else None


def _note_uncalled(model: OpenedModel, reporter: Reporter) -> None:
    names = [name for index in range(len(model.streamed.blocks)) for name in model.streamed.uncalled(index)]
    if names:
        reporter.note(f"{len(names)} linears stay dense, such as {names[0]}: no forward pass calls them.")


def allocated_patterns(mask: Artifact) -> list[BlockPattern] | None:
    """Return each block's pattern of a mask with an allocation, None if all are the same."""
    return _recorded(mask) if ALLOCATION_PART in mask.manifest.parts else None


def _recorded(mask: Artifact) -> list[BlockPattern]:
    blocks = json.loads(mask.read(ALLOCATION_PART))["blocks"]
    return [
        BlockPattern(_pattern(each), {name: _pattern(own) for name, own in each.get("linears", {}).items()})
        for each in blocks
    ]


def _pattern(found: Share) -> Pattern:
    if "m" in found:
        n, m = found["n"], found["m"]
        return Pattern(1 - n / m, (n, m))
    return Pattern(found["sparsity"], exact=True)


def _spread_over_blocks(
    model: OpenedModel, chooser: WeightChooser, allocation: Allocation, stats: Artifact | None, reporter: Reporter
) -> list[Share]:
    """Return {"sparsity"} or {"n", "m"} for every block."""
    blocks = len(model.streamed.blocks)

    def pruned(site: Site, sparsity: float) -> Tensor:
        keep, solution = chooser.choose_site(site, Pattern(sparsity, exact=True))
        solution = solution or solution_of(site, keep, get_update(chooser.method.update))
        return (solution or get_update("none").update(site, keep)).weight

    sizes, measures = [], []
    reporter.begin(f"allocation {allocation.name}", blocks, 0)
    for index in range(blocks):
        linears = chooser.linears(model, index)
        sizes.append(_size(model, chooser, linears))
        known = block_stats(stats, model, index)
        sites = [each.site for each in block_sites(model, linears, known, chooser.settings.solving)]
        sites = [each for each in sites if each.stats or allocation.needs == "nothing"]
        with named(f"block {index}, --allocation {allocation.name}"):
            measures.append(allocation.measure(sites, pruned) if allocation.measure else [])
        reporter.tick(index, 0)
    reporter.end()
    return _shares(chooser, allocation, measures, sizes)


def _spread_over_linears(
    model: OpenedModel,
    chooser: WeightChooser,
    allocation: Allocation,
    measured: Sequence[Sequence[Divergence]],  # by block
) -> list[Share]:
    """Return {"sparsity", "linears": {name: {"sparsity"} or {"n", "m"}}} for every block.

    "nats" of a linear has what each trial cost; those of a block of which nothing was measured share a sparsity.
    """
    blocks = range(len(model.streamed.blocks))
    parts: list[tuple[int, Sequence[str], Sequence[float]]] = []  # (block, linears, nats)
    for index, divergences in zip(blocks, measured, strict=True):
        rest = {linear.name for linear in chooser.linears(model, index)}
        for each in divergences:
            left = [name for name in each.linears if name in rest]
            parts += [(index, left, each.nats)] if left else []
            rest.difference_update(left)
        parts += [(index, sorted(rest), [])] if rest else []
    by_name = {linear.name: linear for index in blocks for linear in chooser.linears(model, index)}
    sizes = [_size(model, chooser, [by_name[name] for name in names]) for _, names, _ in parts]
    shares = _shares(chooser, allocation, [nats for _, _, nats in parts], sizes)
    found = list[Share]()
    for index in blocks:
        here = [place for place, (block, _, _) in enumerate(parts) if block == index]
        removed = sum(sizes[place] * _pattern(shares[place]).sparsity for place in here)
        whole = sum(sizes[place] for place in here)
        own = {name: _with_nats(shares[place], parts[place][2]) for place in here for name in parts[place][1]}
        found.append({"sparsity": removed / whole if whole else chooser.settings.pattern.sparsity, "linears": own})
    return found


def _with_nats(share: Share, nats: Sequence[float]) -> Share:
    return {**share, "nats": list(nats)} if nats else share


def _size(model: OpenedModel, chooser: WeightChooser, linears: Sequence[Linear]) -> int:
    """Return the number of prunable weights of some linears."""
    shapes = [model.streamed.shape(linear) for linear in linears]
    return sum(rows * (columns - chooser.settings.pattern.tail(columns)) for rows, columns in shapes)


def _shares(
    chooser: WeightChooser, allocation: Allocation, measures: Sequence[Sequence[float]], sizes: Sequence[int]
) -> list[Share]:
    """Return {"sparsity"} or {"n", "m"} of blocks or linears with these figures and sizes."""
    pattern = chooser.settings.pattern
    if not any(sizes):
        raise LangpruneError(f"--exclude {chooser.settings.exclude!r} leaves nothing to prune: give a narrower pattern")
    sparsities = fit(allocation.spread(measures, sizes, pattern.sparsity), sizes, pattern.sparsity)
    if pattern.mix_of:
        return [{"n": n, "m": pattern.mix_of} for n in mix_of_n(sparsities, sizes, pattern.mix_of, pattern.sparsity)]
    return [{"sparsity": sparsity} for sparsity in sparsities]
