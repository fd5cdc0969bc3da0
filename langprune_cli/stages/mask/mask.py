"""Stage 3, `mask`: chooses which weights to keep, one bit each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.numerics.packing import unpack_mask
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.values import count_true
from langprune_cli.stages.solving.allocating import BlockPattern, block_patterns, chosen_allocation, divergences_for
from langprune_cli.stages.solving.choosing import WeightChooser
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.statistics.experts import without_statistics
from langprune_cli.stages.statistics.parts import block_part, fitting
from langprune_cli.stages.statistics.sites import block_sites, block_stats, calibration_text, named, needed_stats
from langprune_cli.stages.structured.keep_masks import BlockMasks
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, made_before, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel, check_same_model


@dataclass(frozen=True)
class MaskSource:
    """The source of a mask: statistics, or a scores artifact made from them."""

    stats: Artifact | None
    scores: Artifact | None = None
    allocation_stats: Artifact | None = None  # of the dense model, if `stats` are of another; None: `stats`


def source_of_scores(workspace: Workspace, scores: Artifact) -> MaskSource:
    """Return the source of a scores artifact, whose statistics may have been removed."""
    key = scores.manifest.stats
    return MaskSource(workspace.by_key("stats", key) if key else None, scores)


def mask(
    workspace: Workspace,
    model: OpenedModel,
    source: MaskSource,
    chooser: AnyChooser,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Write the keep mask of every prunable linear, packed to bits, one part per block.

    A mask from scores equals the mask from their statistics, and has the same key. Joint methods are an exception: each of
    their choices depends on earlier ones.
    Raises UsageError and LangpruneError as `needed_stats` and `block_sites` do, and if nothing is left to prune.
    """
    source = _settled(source, chooser, model)
    stats_name = source.stats.name if source.stats else None
    stats_key, text = source.stats.key if source.stats else None, calibration_text(source.stats)
    if source.scores:
        known = source.scores.manifest.about
        stats_key, text = source.scores.manifest.stats, known.get("text")
        stats_name = cast("str | None", known.get("stats"))
    recipe = mask_recipe(
        model,
        chooser,
        stats_key=stats_key,
        allocation_key=source.allocation_stats.key if source.allocation_stats else None,
        about={"stats": stats_name, "text": text},
        of_scores=source.scores is not None,
    )

    def make(writer: ArtifactWriter) -> Artifact:
        shapes = prunable_shapes(model, chooser)
        need_space(writer.folder, _packed_bytes(shapes))
        patterns = block_patterns(workspace, writer, model, chooser, source.allocation_stats or source.stats, reporter)
        reporter.begin(f"mask {writer.folder.name}", len(patterns), 0)
        for index, pattern in enumerate(patterns):
            if not writer.has(block_part(index)):
                found = BlockMasks(index)
                linears = chooser.linears(model, index)
                if source.scores and isinstance(chooser, WeightChooser):
                    scores = source.scores.tensors(block_part(index))
                    for linear in linears:
                        name, shape = linear.name, model.streamed.shape(linear)
                        of = fitting(source.scores, block_part(index), scores, name, torch.float32, shape)
                        found.keep[name] = chooser.of_scores(of, pattern.of(linear))
                else:
                    known = block_stats(source.stats, model, index)
                    for site in block_sites(model, linears, known, chooser.settings.solving):
                        with named(site.name):
                            keep, _ = pattern.choose(chooser, model, index, site)
                        masks = {linear.name: part for linear, part in site.split(keep)}
                        found.add(site.name, masks, site.site.damping_used)
                found.write(writer)
            reporter.tick(index, 0)
        reporter.end()
        few = without_statistics(source.stats, chooser.settings.solving, reporter)
        return writer.finish(**mask_summary(writer, shapes, patterns), **few)

    default = f"{stats_name}-{chooser.label}" if stats_name else chooser.label
    where = Destination.of(workspace, default, to)
    measured = divergences_for(model, chooser, source.allocation_stats or source.stats)
    if measured and workspace.planned is not None and made_before(recipe, where) is None:
        measured.made(workspace, reporter)
    whole_rows = isinstance(chooser, WeightChooser)  # masks of units store one row
    size = (lambda: _packed_bytes(prunable_shapes(model, chooser))) if whole_rows else None
    return run_stage(recipe, where, make, size)


def _packed_bytes(shapes: dict[str, tuple[int, int]]) -> int:
    return sum(o * -(-i // 8) for o, i in shapes.values())


def _settled(source: MaskSource, chooser: AnyChooser, model: OpenedModel) -> MaskSource:
    """Return the source with only the statistics that will be read; raises LangpruneError if they do not fit."""
    allocation = chosen_allocation(chooser)
    if source.scores:
        check_same_model(source.scores, model)
        if not isinstance(chooser, WeightChooser):
            raise UsageError("--scores hold single weights: give --stats for patterns of channels and groups")
        if chooser.settings.refinement or chooser.settings.allocation != "uniform":
            raise UsageError("--refine and --allocation read statistics, not scores: give --stats and --method")
        return source
    stats = needed_stats(chooser.needs, chooser.what, source.stats, model)
    others = source.allocation_stats or source.stats
    spread_by = needed_stats(allocation.needs, f"--allocation {allocation.name}", others, model)
    return replace(source, stats=stats, allocation_stats=None if spread_by is stats else spread_by)


def mask_recipe(
    model: OpenedModel,
    chooser: AnyChooser,
    *,
    stats_key: str | None,
    allocation_key: str | None,
    about: dict[str, object],
    of_scores: bool = False,
) -> Recipe:
    """Return the recipe of a mask; allocation_key: the allocation's statistics, if they are not `stats_key`."""
    return Recipe(
        "masks",
        inputs={
            "model": model.digest,
            "stats": stats_key,
            **({"allocation_stats": allocation_key} if allocation_key else {}),
        },
        params=chooser.params() | ({"adaptive": False} if of_scores and _is_joint(chooser) else {}),
        about={"model": model.about, **about, **chooser.about()},
        environment=model.environment(),
    )


def _is_joint(chooser: AnyChooser) -> bool:
    return isinstance(chooser, WeightChooser) and chooser.method.solve is not None


def prunable_shapes(model: OpenedModel, chooser: AnyChooser) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every linear to prune; raises LangpruneError if there is none."""
    linears = [linear for index in range(len(model.streamed.blocks)) for linear in chooser.linears(model, index)]
    if not linears:
        raise LangpruneError(f"--exclude {chooser.settings.exclude!r} leaves nothing to prune: give a narrower pattern")
    return {linear.name: model.streamed.shape(linear) for linear in linears}


def dense_tails(shapes: dict[str, tuple[int, int]], pattern: Pattern) -> dict[str, int]:
    """Return the number of last columns that stay dense, for linears whose width M does not divide."""
    return {name: pattern.tail(columns) for name, (_, columns) in shapes.items() if pattern.tail(columns)}


def mask_summary(
    writer: ArtifactWriter, shapes: dict[str, tuple[int, int]], patterns: Sequence[BlockPattern]
) -> dict[str, object]:
    """Return the manifest's counts over all parts on disk, including those of an interrupted run."""
    artifact = Artifact(writer.folder, writer.manifest)
    kept = 0
    damping: dict[str, float] = {}
    for index in range(len(patterns)):
        masks, record = artifact.tensors_and_record(block_part(index))
        for name, packed in masks.items():
            rows, columns = shapes[name]
            kept += count_true(unpack_mask(packed, columns)) * (rows // len(packed))  # units store one row
        damping |= record.get("damping", {})
    weights = sum(o * i for o, i in shapes.values())
    asked = artifact.manifest.params.get("damping", 0.0)
    return {
        "weights": weights,
        "removed": weights - kept,
        "linears": len(shapes),
        "dense_tail_columns": dense_tails(shapes, patterns[0].pattern),
        **({"more_damping": more} if (more := {site: used for site, used in damping.items() if used > asked}) else {}),
    }
