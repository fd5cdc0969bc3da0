"""One run of `prune`: makes the mask and the model together, unless propagation is `dense` also the statistics."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from langprune_cli.defaults import Propagation
from langprune_cli.machine.team import Team
from langprune_cli.numerics.site import Needs, Statistics, most_needed
from langprune_cli.records import TextRecord
from langprune_cli.stages.apply.apply import (
    ApplySettings,
    MaskOf,
    mask_patterns,
    model_name,
    model_recipe,
)
from langprune_cli.stages.apply.cutting import cut_of
from langprune_cli.stages.apply.model_writing import ModelWriter
from langprune_cli.stages.calibrate.calibrate import (
    CalibrationSettings,
    calibrate_on,
    collect_for,
    stats_bytes,
)
from langprune_cli.stages.mask.mask import dense_tails, mask_summary, prunable_shapes
from langprune_cli.stages.prune.block_by_block import BlockByBlock, Propagated
from langprune_cli.stages.solving.allocating import BlockPattern, block_patterns, divergences_for
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.statistics.experts import finish_stats, without_statistics
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.stages.structured.keep_masks import MaskReader
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Place, Reporter, being_made_at, made_before, planned
from langprune_cli.store.files import need_space
from langprune_cli.store.target import Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import Windows
from langprune_cli.updates.update import Update


@dataclass(frozen=True)
class PruneSettings:
    """The settings of `prune`."""

    chooser: AnyChooser
    apply: ApplySettings
    calibration: CalibrationSettings
    propagation: Propagation = "pruned"


@dataclass(frozen=True)
class PruneOutcome:
    """The artifacts of one pruning, as the separate stages would make them."""

    model: Outcome
    parents: list[Outcome]  # statistics and divergences if needed, and the mask
    seconds: dict[int, float] = field(default_factory=dict)  # by block, of choosing and updating; empty if cached


@dataclass(frozen=True)
class Run:
    """The inputs of one run."""

    workspace: Workspace
    model: OpenedModel
    windows: Windows
    settings: PruneSettings
    chooser: AnyChooser
    update: Update
    reporter: Reporter

    @property
    def team(self) -> Team:
        """Return the processes of the run."""
        return self.model.compute.team

    @property
    def collect(self) -> Statistics:
        """Return the statistics that method, refinement and update need together."""
        return collect_for(most_needed(self.chooser.needs, self.update.needs))

    def calibrate(self, needs: Needs, *, force: bool = False) -> Outcome | None:
        """Return the dense model's statistics, made now if missing; None if nothing needs them."""
        if needs == "nothing":
            return None
        return calibrate_on(
            self.workspace,
            self.model,
            self.windows,
            collect_for(needs),
            self.reporter,
            to=Target(force=force),
        )


@dataclass(frozen=True)
class Making:
    """Makes a mask and a model together, unless propagation is `dense` also the statistics."""

    run_: Run
    masks: Recipe
    model_stats: str | None  # key of the update's statistics
    known: Artifact | None  # the dense model's statistics
    gathered: Recipe | None  # of the statistics that this run collects
    text: TextRecord | None  # of the statistics
    to: Destination  # of mask and statistics
    asked: Target  # of the model

    def run(self, spread_by: Artifact | None) -> PruneOutcome:
        """Make the missing artifacts, and return all; spread_by: the allocation's statistics."""
        if self.run_.workspace.planned is not None:
            return self._planned(spread_by)
        begun, team = time.monotonic(), self.run_.team
        stats, masks, model = team.first(self._made_before)
        there = {each.manifest.kind: _there(each) for each in (stats if self.gathered else None, masks) if each}
        if model:
            return PruneOutcome(_there(model), list(there.values()))
        if masks is None and (measured := team.first(lambda: self._measured(spread_by))):
            there["divergences"] = measured
        with ExitStack() as places, ExitStack() as writers:

            def hold(recipe: Recipe, to: Destination, found: Artifact | None) -> Place:
                place = places.enter_context(being_made_at(recipe, to, team))
                if found is None:
                    held[recipe.kind] = place, writers.enter_context(place.writer())
                return place

            held: dict[str, tuple[Place, ArtifactWriter]] = {}
            name = hold(self.gathered, self.to, stats).name if self.gathered else stats and stats.name
            scored_by = str(name) if self.masks.inputs["stats"] else None
            mask = hold(replace(self.masks, about={**self.masks.about, "stats": scored_by}), self.to, masks)
            hold(*self._model(mask.name, str(name) if scored_by or self.model_stats else None), None)
            made, seconds = self._make({kind: writer for kind, (_, writer) in held.items()}, stats, masks, spread_by)
            settled = {kind: held[kind][0].settle(artifact) for kind, artifact in made.items()}
        elapsed = time.monotonic() - begun
        outcomes = there | {kind: Outcome(artifact, False, elapsed) for kind, artifact in settled.items()}
        return PruneOutcome(
            outcomes["models"],
            [outcomes[kind] for kind in ("stats", "divergences", "masks") if kind in outcomes],
            seconds,
        )

    def _made_before(self) -> tuple[Artifact | None, Artifact | None, Artifact | None]:
        """Return statistics, mask and model, None for each that is missing."""
        stats = made_before(self.gathered, self.to) if self.gathered else self.known
        masks = made_before(self.masks, self.to)
        return stats, masks, made_before(*self._model(self.to.default_name, None))

    def _planned(self, spread_by: Artifact | None) -> PruneOutcome:
        """Return the planned model and mask, and the divergences that the mask reads, without making anything."""
        stats = planned(self.gathered, self.to).artifact if self.gathered else self.known
        scored_by = stats.name if stats and self.masks.inputs["stats"] else None
        masks = planned(replace(self.masks, about={**self.masks.about, "stats": scored_by}), self.to)
        recipe, to = self._model(masks.artifact.name, stats.name if stats and (scored_by or self.model_stats) else None)
        measured = None if masks.cached else self._measured(spread_by)
        return PruneOutcome(planned(recipe, to), [*([measured] if measured else []), masks])

    def _measured(self, spread_by: Artifact | None) -> Outcome | None:
        """Return the divergences that the allocation reads, found or made; None if it reads none."""
        known = divergences_for(self.run_.model, self.run_.chooser, spread_by)
        return known.made(self.run_.workspace, self.run_.reporter) if known else None

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        return prunable_shapes(self.run_.model, self.run_.chooser)

    def _model(self, mask: str, stats: str | None) -> tuple[Recipe, Destination]:
        """Return the model's recipe and destination, given the names of mask and statistics."""
        run = self.run_
        tails = dense_tails(self._shapes, run.chooser.settings.pattern)
        known = {"stats": stats, "text": self.text if stats else None, "dense_tail_columns": tails}
        of = MaskOf(mask, self.masks.key, self.masks.params, {**self.masks.about, **known})
        recipe = model_recipe(run.model, of, run.update, run.settings.apply, self.model_stats)
        # Unless propagation is `dense` the mask depends on the update too, so its name contains the update.
        own = run.update.name if self.gathered else run.chooser.method.update
        default = model_name(mask, own, run.update, text_only=run.settings.apply.text_only)
        return recipe, Destination.of(run.workspace, default, self.asked)

    def _make(
        self,
        writers: dict[str, ArtifactWriter],
        stats: Artifact | None,
        masks: Artifact | None,
        spread_by: Artifact | None,
    ) -> tuple[dict[str, Artifact], dict[int, float]]:
        """Return the finished artifacts by kind, and the seconds per block."""
        run, hessian = self.run_, self.run_.collect == "hessian"
        settings = run.settings.apply
        cut, tower = cut_of(run.model, masks or writers["masks"]), settings.tower(run.model)
        target = ModelWriter(writers["models"], run.model, settings.max_shard_bytes, cut, tower)
        run.team.first(target.need_space)
        patterns = run.team.first(
            lambda: (
                mask_patterns(masks, target.blocks)
                if masks
                else block_patterns(run.workspace, writers["masks"], run.model, run.chooser, spread_by, run.reporter)
            )
        )
        common: dict[str, Any] = {
            "model": run.model,
            "chooser": run.chooser,
            "update": run.update,
            "patterns": patterns,
            "masks": masks or writers["masks"],
            "target": target,
            "reporter": run.reporter,
        }
        if "stats" in writers:
            todo = [index for index in range(target.blocks) if not writers["stats"].has(block_part(index))]
            run.team.first(lambda: need_space(writers["stats"].folder, stats_bytes(run.model, todo, hessian=hessian)))
            walk: BlockByBlock = Propagated(
                **common,
                windows=run.windows,
                stats=writers["stats"],
                hessian=hessian,
                corrected=run.settings.propagation == "corrected",
            )
        else:
            walk = BlockByBlock(**common, statistics=stats)
        walk.run()
        return run.team.first(lambda: self._finished(writers, stats, masks, patterns, target)), walk.seconds

    def _finished(
        self,
        writers: dict[str, ArtifactWriter],
        stats: Artifact | None,
        masks: Artifact | None,
        patterns: list[BlockPattern],
        target: ModelWriter,
    ) -> dict[str, Artifact]:
        """Complete the artifacts of this run, and return them by kind."""
        run = self.run_
        made = {"stats": finish_stats(writers["stats"], run.model, run.reporter)} if "stats" in writers else {}
        if masks is None:
            known = made.get("stats", stats) if run.chooser.needs != "nothing" else None
            few = without_statistics(known, run.chooser.settings.solving, run.reporter)
            summary = mask_summary(writers["masks"], self._shapes, patterns)
            masks = made["masks"] = writers["masks"].finish(**summary, **few)
        made["models"] = target.finish(MaskReader(masks, run.model), patterns, run.reporter)
        return made


def _there(artifact: Artifact) -> Outcome:
    """Return the outcome of an existing artifact."""
    return Outcome(artifact, cached=True, seconds=0.0)
