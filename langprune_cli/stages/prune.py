"""`prune`: all of it at once, block by block, each block calibrated on what the pruned blocks before it put out."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from langprune_cli.methods.method import Method
from langprune_cli.numerics.site import most_needed
from langprune_cli.stages.allocating import block_patterns, chosen_allocation
from langprune_cli.stages.apply import ApplySettings, MaskOf, apply, check_target, model_recipe
from langprune_cli.stages.block_by_block import BlockByBlock
from langprune_cli.stages.calibrate import (
    CalibrationSettings,
    Collect,
    calibrate_on,
    draw,
    stats_bytes,
    stats_recipe,
)
from langprune_cli.stages.choosing import Chooser, MaskSettings
from langprune_cli.stages.keep_masks import MaskReader
from langprune_cli.stages.mask import MaskSource, mask, mask_recipe, mask_summary, prunable_shapes
from langprune_cli.stages.model_writing import ModelWriter
from langprune_cli.stages.opened import OpenedModel
from langprune_cli.stages.parts import block_part
from langprune_cli.stages.resuming import SAVE_AFTER_SECONDS
from langprune_cli.stages.run import Destination, Outcome, Reporter, being_made_at, made_before
from langprune_cli.stages.sites import text_record
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.files import need_space
from langprune_cli.store.workspace import Workspace
from langprune_cli.types import TextSpec, Windows
from langprune_cli.updates.update import Update, get_update


@dataclass(frozen=True)
class PruneSettings:
    """Everything that decides what is pruned, and how."""

    method: Method
    mask: MaskSettings
    apply: ApplySettings
    calibration: CalibrationSettings
    propagation: Literal["pruned", "dense"] = "pruned"


@dataclass(frozen=True)
class Pruning:
    """What `prune` made: the artifacts that the stages would have."""

    model: Outcome
    parents: list[Outcome]  # statistics, where any were needed, and mask
    seconds: dict[int, float] = field(default_factory=dict)  # per block, of choosing and updating; empty where cached


@dataclass(frozen=True)
class _Run:
    """What all of a run's functions read."""

    workspace: Workspace
    model: OpenedModel
    windows: Windows
    settings: PruneSettings
    chooser: Chooser
    update: Update
    reporter: Reporter
    save_after_seconds: float

    @property
    def collect(self) -> Collect:
        """Return what statistics the method, the refinement and the update need together."""
        return "hessian" if most_needed(self.chooser.needs, self.update.needs) == "hessian" else "norms"

    @property
    def name(self) -> str:
        """Return the name of what is made, where the user gives none."""
        update = [] if self.update.name in {"none", self.chooser.method.update} else [self.update.name]
        return "-".join([self.windows.spec.name, "prune", self.chooser.label, *update])


def prune(
    workspace: Workspace,
    model: OpenedModel,
    spec: TextSpec,
    settings: PruneSettings,
    reporter: Reporter,
    *,
    name: str | None = None,
    out: Path | None = None,
    force: bool = False,
    save_after_seconds: float = SAVE_AFTER_SECONDS,
) -> Pruning:
    """Calibrate, choose, update and write the model: the stats, mask and model artifacts that the stages make.

    With propagation `pruned` a block is calibrated on what the pruned blocks before it put out, as published Wanda and
    SparseGPT do; with `dense` it is the chained stages, to the byte. What is on disk of an interrupted run is gone on with.
    Raises what the stages raise.
    """
    check_target(workspace, model, name, out)
    chooser, update = Chooser.of(settings.method, settings.mask), get_update(settings.apply.update)
    chosen_allocation(chooser)
    (windows,) = draw(model, [spec], settings.calibration, reporter)
    run = _Run(workspace, model, windows, settings, chooser, update, reporter, save_after_seconds)
    if settings.propagation == "dense" or most_needed(chooser.needs, update.needs) == "nothing":
        return _chained(run, name, out, force=force)
    allocation_stats = _allocation_stats(run)
    return _block_by_block(run, allocation_stats, name, out, force=force)


def _chained(run: _Run, name: str | None, out: Path | None, *, force: bool) -> Pruning:
    """Run the stages one after the other, each over all blocks."""
    stats = None
    needs = most_needed(run.chooser.needs, run.update.needs, chosen_allocation(run.chooser).needs)
    if needs != "nothing":
        collect: Collect = "hessian" if needs == "hessian" else "norms"
        stats = calibrate_on(
            run.workspace, run.model, run.windows, collect, run.reporter, save_after_seconds=run.save_after_seconds
        )
    source = MaskSource(run.chooser.method, stats.artifact if stats else None)
    masks = mask(run.workspace, run.model, source, run.chooser.settings, run.reporter, force=force)
    made = apply(
        run.workspace,
        run.model,
        masks.artifact,
        run.reporter,
        run.settings.apply,
        stats=stats.artifact if stats else None,
        name=name,
        out=out,
        force=force,
    )
    return Pruning(made, [stats, masks] if stats else [masks])


def _allocation_stats(run: _Run) -> Artifact | None:
    """Return the dense model's statistics by which sparsity is spread, made now where they are not there; None: not needed."""
    needs = chosen_allocation(run.chooser).needs
    if needs == "nothing":
        return None
    collect: Collect = "hessian" if needs == "hessian" else "norms"
    return calibrate_on(
        run.workspace, run.model, run.windows, collect, run.reporter, save_after_seconds=run.save_after_seconds
    ).artifact


def _block_by_block(
    run: _Run, allocation_stats: Artifact | None, name: str | None, out: Path | None, *, force: bool
) -> Pruning:
    """Walk the blocks once, all three artifacts being made side by side."""
    begun = time.monotonic()
    to = Destination(run.workspace, run.name, force=force)
    spread_by = allocation_stats.key if allocation_stats else None
    stats = stats_recipe(run.model, run.windows, run.collect, _pruned_with(run, spread_by))
    known: dict[str, object] = {"stats": run.name, "text": text_record(stats.inputs, stats.about)}
    masks = mask_recipe(
        run.model,
        run.chooser,
        stats_key=None if run.chooser.needs == "nothing" else stats.key,
        allocation_key=spread_by,
        about=known,
    )
    models = model_recipe(
        run.model,
        MaskOf(run.name, masks.key, masks.params, known),
        run.update,
        run.settings.apply,
        None if run.update.needs == "nothing" else stats.key,
    )
    destination = replace(to, name=name, out=out)
    if found := made_before(models, destination):
        parents = [each for each in (made_before(stats, to), made_before(masks, to)) if each]
        return Pruning(Outcome(found, True, 0.0), [Outcome(each, True, 0.0) for each in parents])
    with ExitStack() as stack:
        places = [
            stack.enter_context(being_made_at(*each)) for each in ((stats, to), (masks, to), (models, destination))
        ]
        with ExitStack() as writers:
            made, seconds = _make(run, [writers.enter_context(place.writer()) for place in places], allocation_stats)
        settled = [place.settle(artifact) for place, artifact in zip(places, made, strict=True)]
    outcomes = [Outcome(artifact, False, time.monotonic() - begun) for artifact in settled]
    return Pruning(outcomes[-1], outcomes[:-1], seconds)


def _pruned_with(run: _Run, allocation_key: str | None) -> dict[str, object]:
    """Return what, beside the text, the inputs of a block depend on when those before it have been pruned."""
    return {
        **run.chooser.params(),
        "damping": run.settings.mask.damping,
        "update": run.update.name,
        "allocation_stats": allocation_key,
    }


def _make(
    run: _Run, writers: list[ArtifactWriter], allocation_stats: Artifact | None
) -> tuple[list[Artifact], dict[int, float]]:
    """Return the finished statistics, masks and model, and the seconds per block."""
    stats, masks, models = writers
    shapes = prunable_shapes(run.model, run.settings.mask.exclude)
    target = ModelWriter(models, run.model, run.settings.apply.max_shard_bytes)
    target.need_space()
    todo = [index for index in range(target.blocks) if not stats.has(block_part(index))]
    need_space(stats.folder, stats_bytes(run.model, todo, hessian=run.collect == "hessian"))
    patterns = block_patterns(masks, run.model, run.chooser, allocation_stats, run.reporter)
    walked = BlockByBlock(
        run.model,
        run.windows,
        run.chooser,
        run.update,
        patterns,
        stats,
        masks,
        target,
        run.reporter,
        hessian=run.collect == "hessian",
    )
    walked.run(run.save_after_seconds)
    whole = [stats.finish(), masks.finish(**mask_summary(masks, shapes, patterns))]
    checked = target.finish(MaskReader(whole[1], run.model), patterns, run.reporter)
    return [*whole, checked], walked.seconds
