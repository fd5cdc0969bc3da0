"""Chooses the pattern of every block, from an allocation and the dense model's statistics."""

import json

from torch import Tensor

from langprune_cli.allocations.allocation import Allocation, fit, get_allocation, mix_of_n
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site
from langprune_cli.stages.solving.choosing import WeightChooser
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.solving.updating import solution_of
from langprune_cli.stages.statistics.sites import block_sites, block_stats, named
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import readable_json
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.updates.update import get_update

ALLOCATION_PART = "allocation.json"


def chosen_allocation(chooser: AnyChooser) -> Allocation:
    """Return the requested allocation.

    Raises LangpruneError for an unknown name, UsageError if it does not go with the pattern.
    """
    pattern = chooser.settings.pattern
    allocation = get_allocation(chooser.settings.allocation)
    if pattern.keep_of and allocation.name != "uniform":
        raise UsageError(
            f"--allocation {allocation.name} does not go with --pattern {pattern}, which prunes all blocks alike: "
            f"give --pattern N:{pattern.keep_of[1]} --sparsity {pattern.sparsity:g}"
        )
    return allocation


def block_patterns(
    writer: ArtifactWriter, model: OpenedModel, chooser: AnyChooser, stats: Artifact | None, reporter: Reporter
) -> list[Pattern]:
    """Return each block's pattern; an allocation's result becomes a part of the mask, and is read from there when resuming.

    stats: of the dense model, if the allocation needs them.
    """
    pattern, blocks = chooser.settings.pattern, len(model.streamed.blocks)
    allocation = chosen_allocation(chooser)
    if isinstance(chooser, WeightChooser):
        _note_uncalled(model, reporter)
    if not isinstance(chooser, WeightChooser) or (allocation.name == "uniform" and not pattern.mix_of):
        return [pattern] * blocks
    if not writer.has(ALLOCATION_PART):
        found = _spread(model, chooser, allocation, stats, reporter)
        writer.write(ALLOCATION_PART, readable_json({"allocation": allocation.name, "blocks": found}))
    return _recorded(Artifact(writer.folder, writer.manifest))


def _note_uncalled(model: OpenedModel, reporter: Reporter) -> None:
    names = [name for index in range(len(model.streamed.blocks)) for name in model.streamed.uncalled(index)]
    if names:
        reporter.note(f"{len(names)} linears stay dense, such as {names[0]}: no forward pass calls them.")


def allocated_patterns(mask: Artifact) -> list[Pattern] | None:
    """Return each block's pattern of a mask with an allocation, None if all are the same."""
    return _recorded(mask) if ALLOCATION_PART in mask.manifest.parts else None


def _recorded(mask: Artifact) -> list[Pattern]:
    return [_pattern(each) for each in json.loads(mask.read(ALLOCATION_PART))["blocks"]]


def _pattern(found: dict[str, float]) -> Pattern:
    if "m" in found:
        n, m = int(found["n"]), int(found["m"])
        return Pattern(1 - n / m, (n, m))
    return Pattern(found["sparsity"], exact=True)


def _spread(
    model: OpenedModel, chooser: WeightChooser, allocation: Allocation, stats: Artifact | None, reporter: Reporter
) -> list[dict[str, float]]:
    """Return {"sparsity"} or {"n", "m"} for every block."""
    settings, blocks = chooser.settings, len(model.streamed.blocks)
    pattern = settings.pattern

    def pruned(site: Site, sparsity: float) -> Tensor:
        keep, solution = chooser.choose_site(site, Pattern(sparsity, exact=True))
        solution = solution or solution_of(site, keep, get_update(chooser.method.update))
        return (solution or get_update("none").update(site, keep)).weight

    sizes, measures = [], []
    reporter.begin(f"allocation {allocation.name}", blocks, 0)
    for index in range(blocks):
        linears = chooser.linears(model, index)
        shapes = [model.streamed.shape(linear) for linear in linears]
        sizes.append(sum(rows * (columns - pattern.tail(columns)) for rows, columns in shapes))
        known = block_stats(stats, model, index)
        sites = [each.site for each in block_sites(model, linears, known, settings.solving)]
        sites = [each for each in sites if each.stats or allocation.needs == "nothing"]
        with named(f"block {index}, --allocation {allocation.name}"):
            measures.append(allocation.measure(sites, pruned))
        reporter.tick(index, 0)
    reporter.end()
    if not any(sizes):
        raise LangpruneError(f"--exclude {settings.exclude!r} leaves nothing to prune: give a narrower pattern")
    sparsities = fit(allocation.spread(measures, sizes, pattern.sparsity), sizes, pattern.sparsity)
    if pattern.mix_of:
        return [{"n": n, "m": pattern.mix_of} for n in mix_of_n(sparsities, sizes, pattern.mix_of, pattern.sparsity)]
    return [{"sparsity": sparsity} for sparsity in sparsities]
