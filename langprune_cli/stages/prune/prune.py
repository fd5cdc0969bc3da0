"""`prune`: calibrates, chooses, updates and writes block by block, in one walk through the model."""

import time
from dataclasses import replace

from langprune_cli.errors import UsageError
from langprune_cli.numerics.site import most_needed
from langprune_cli.stages.apply.apply import (
    check_target,
)
from langprune_cli.stages.calibrate.calibrate import draw
from langprune_cli.stages.mask.mask import mask_recipe
from langprune_cli.stages.prune.making import Making, PruneOutcome, PruneSettings, Run
from langprune_cli.stages.solving.allocating import chosen_allocation
from langprune_cli.stages.statistics.recipe import stats_recipe
from langprune_cli.stages.statistics.sites import calibration_text, text_record
from langprune_cli.store.building import Destination, Outcome, Reporter
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import TextSpec
from langprune_cli.updates.update import get_update


def prune(
    workspace: Workspace,
    model: OpenedModel,
    spec: TextSpec,
    settings: PruneSettings,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> PruneOutcome:
    """Calibrate, choose, update and write: make the same stats, mask and model artifacts as the stages.

    Propagation `pruned` calibrates each block on the outputs of the pruned blocks before it, as published Wanda and SparseGPT
    do. Propagation `corrected` does too, and what the residual stream has lost by then becomes part of what the linears that
    write to it aim at. Propagation `dense` gives the same bytes as the separate stages. Resumes an interrupted run.
    Raises as the stages do, and UsageError for `corrected` without a method that reads statistics and an update by Hessians.
    """
    begun = time.monotonic()
    model.compute.team.first(lambda: check_target(workspace, model, to))
    chooser, update = settings.chooser, get_update(settings.apply.update)
    chosen_allocation(chooser)
    if settings.propagation == "corrected" and (chooser.needs == "nothing" or update.needs != "hessian"):
        raise UsageError(
            f"--propagation corrected goes with an update by Hessians, such as pcg, and a method that reads statistics; not with "
            f"--method {chooser.method.name} --update {update.name}: leave it out"
        )
    (windows,) = draw(model, [spec], settings.calibration, reporter)
    run = Run(workspace, model, windows, settings, chooser, update, reporter)
    dense = settings.propagation == "dense" or most_needed(chooser.needs, update.needs) == "nothing"
    made = (_dense if dense else _pruned)(run, to)
    return replace(made, model=replace(made.model, seconds=time.monotonic() - begun))


def _dense(run: Run, to: Target) -> PruneOutcome:
    """Calibrate, then choose and update together: the result of the separate stages, but each solver runs once."""
    spread_needs = chosen_allocation(run.chooser).needs
    calibrated = run.calibrate(most_needed(run.chooser.needs, run.update.needs, spread_needs), force=to.force)
    known = calibrated.artifact if calibrated else None
    scored_by = None if run.chooser.needs == "nothing" else known
    label = f"{scored_by.name}-{run.chooser.label}" if scored_by else run.chooser.label
    masks = mask_recipe(
        run.model,
        run.chooser,
        stats_key=scored_by.key if scored_by else None,
        allocation_key=known.key if known and spread_needs != "nothing" and not scored_by else None,
        about={"stats": scored_by.name if scored_by else None, "text": calibration_text(scored_by)},
    )
    model_stats = None if known is None or run.update.needs == "nothing" else known.key
    place = Destination(run.workspace, to.name or label, force=to.force)
    making = Making(run, masks, model_stats, known, None, calibration_text(known), place, to)
    pruning = run.team.first(lambda: making.run(known))  # no windows to share
    return _after(calibrated, pruning)


def _pruned(run: Run, to: Target) -> PruneOutcome:
    """Make statistics, masks and model in one walk through the blocks; each process runs its share of the windows."""
    spread_by, propagation = run.calibrate(chosen_allocation(run.chooser).needs), run.settings.propagation
    allocation_key = spread_by.artifact.key if spread_by else None
    pruned_with = _pruned_with(run, allocation_key)
    stats = run.team.first(lambda: stats_recipe(run.model, run.windows, run.collect, propagation, pruned_with))
    update = [] if run.update.name in {"none", run.chooser.method.update} else [run.update.name]
    scored = run.chooser.needs != "nothing"
    text = text_record(stats.inputs, stats.about)
    label = "-".join([run.windows.spec.name, "prune", run.chooser.label, *update])
    masks = mask_recipe(
        run.model,
        run.chooser,
        stats_key=stats.key if scored else None,
        allocation_key=allocation_key,
        about={"stats": None, "text": text if scored else None},
    )
    model_stats = None if run.update.needs == "nothing" else stats.key
    place = Destination(run.workspace, to.name or label, force=to.force)
    making = Making(run, masks, model_stats, None, stats, text, place, to)
    return _after(spread_by, making.run(spread_by.artifact if spread_by else None))


def _after(calibrated: Outcome | None, made: PruneOutcome) -> PruneOutcome:
    """Return a pruning with the dense model's statistics, if any, before what it made."""
    return replace(made, parents=[calibrated, *made.parents]) if calibrated else made


def _pruned_with(run: Run, allocation_key: str | None) -> dict[str, object]:
    """Return the settings that, besides the text, determine a block's inputs once earlier blocks are pruned."""
    return {
        **run.chooser.params(),
        **run.chooser.settings.solving.params(run.collect),
        "update": run.update.name,
        "allocation_stats": allocation_key,
    }
