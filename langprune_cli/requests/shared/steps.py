"""The steps of `prune`: what leaves in each, and how the smaller or sparser model is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from langprune_cli.requests.shared import vocabulary
from langprune_cli.requests.shared.weights import note_cost
from langprune_cli.structured_patterns.pattern import Counted, Judged, get_pattern

if TYPE_CHECKING:  # torch takes seconds to import, and a request that is wrong is refused before
    from collections.abc import Callable

    from langprune_cli.requests.shared.run import Run
    from langprune_cli.requests.shared.structured import UnitOptions
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
    from langprune_cli.stages.prune.making import Pruning
    from langprune_cli.stages.solving.choosing import Chooser
    from langprune_cli.stages.solving.unit_choosing import AnyChooser
    from langprune_cli.stages.statistics.sites import Solving
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.structures import Structure
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.target import Target
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec


@dataclass(frozen=True)
class Given:
    """What all steps are given."""

    run: Run
    specs: list[TextSpec]
    calibration: CalibrationSettings
    max_tokens: int | None  # that are counted
    solving: Solving
    dense: bool  # whether each block is calibrated on what the dense blocks before it put out
    max_shard_bytes: int


class Step(Protocol):
    """What leaves at a time."""

    @property
    def touches_blocks(self) -> bool:
        """Return whether it changes blocks; else there is nothing to update or to tune."""

    @property
    def updates(self) -> bool:
        """Return whether weights that stay in the blocks can get new values."""

    def make(self, given: Given, model: OpenedModel, to: Target) -> Pruning:
        """Make the model without what leaves, and what it is made from, its mask last."""


@dataclass(frozen=True)
class WholeStep:
    """What is chosen once for the whole model by one pattern: tokens or blocks."""

    structure: Structure
    method: str | None = None  # None: the pattern's own

    updates = False

    @property
    def touches_blocks(self) -> bool:
        """Return what the pattern says."""
        return get_pattern(self.structure.kind).touches_blocks

    def make(self, given: Given, model: OpenedModel, to: Target) -> Pruning:
        """Choose, and write the smaller model; of several processes the first does: windows are not shared."""
        return given.run.team.first(lambda: self._made(given, model, to))

    def _made(self, given: Given, model: OpenedModel, to: Target) -> Pruning:
        from langprune_cli.stages.apply.apply import ApplySettings, apply  # noqa: PLC0415
        from langprune_cli.stages.mask.whole import mask_whole  # noqa: PLC0415
        from langprune_cli.stages.prune.making import Pruning  # noqa: PLC0415

        run, settings = given.run, ApplySettings(max_shard_bytes=given.max_shard_bytes)
        choosing, statistics = self._choosing(given, model, to.between)
        mask = mask_whole(run.workspace, model, choosing, to.between)
        made = apply(run.workspace, model, mask.artifact, run.reporter, settings, to=to)
        return Pruning(made, [*statistics, mask])

    def _choosing(self, given: Given, model: OpenedModel, to: Target) -> tuple[Choosing, list[Outcome]]:
        """Return how it is chosen what stays, and the statistics that were made for it."""
        from langprune_cli.stages.calibrate.calibrate import draw  # noqa: PLC0415
        from langprune_cli.stages.structured.judged_on import JudgedOn  # noqa: PLC0415

        run, pattern = given.run, get_pattern(self.structure.kind)
        if isinstance(pattern.leaves, Counted):
            specs = [each for spec in given.specs for each in spec.singles]
            counted = vocabulary.counted(run, model, specs, given.max_tokens, to)
            show = partial(vocabulary.note, run)
            return pattern.leaves.choosing(model, counted[-1].artifact, self.structure, show), counted
        assert isinstance(pattern.leaves, Judged)  # noqa: S101 - units leave block by block
        method = pattern.check_method(self.method or pattern.method)
        (windows,) = draw(model, given.specs[:1], given.calibration, run.reporter)
        judged_on = JudgedOn.of_windows(model, windows)
        return pattern.leaves.choosing(model, judged_on, self.structure, method, run.reporter), []


@dataclass(frozen=True)
class BlockStep:
    """What is chosen block by block: channels and KV groups together, or single weights."""

    chooser: Callable[[OpenedModel], AnyChooser]
    update: str | None  # None: what belongs to the method

    touches_blocks = updates = True

    @classmethod
    def of_units(cls, options: UnitOptions, update: str | None) -> BlockStep:
        """Return the step of channels and KV groups."""
        return cls(options.chooser, update)

    @classmethod
    def of_weights(cls, chooser: Chooser, update: str | None) -> BlockStep:
        """Return the step of single weights."""
        return cls(lambda _model: chooser, update)

    def make(self, given: Given, model: OpenedModel, to: Target) -> Pruning:
        """Calibrate, choose and update block by block."""
        from langprune_cli.stages.apply.apply import ApplySettings  # noqa: PLC0415
        from langprune_cli.stages.prune.making import PruneSettings  # noqa: PLC0415
        from langprune_cli.stages.prune.prune import prune  # noqa: PLC0415
        from langprune_cli.stages.solving.choosing import Chooser  # noqa: PLC0415

        run, chooser = given.run, self.chooser(model)
        update = self.update or chooser.method.update
        if isinstance(chooser, Chooser) and update == "none":
            note_cost(run, chooser.method.name, chooser.settings)
        settings = ApplySettings(update, given.solving, given.max_shard_bytes)
        how = PruneSettings(chooser, settings, given.calibration, "dense" if given.dense else "pruned")
        return prune(run.workspace, model, given.specs[0], how, run.reporter, to=to)
