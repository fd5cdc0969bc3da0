"""The steps of `prune`: each removes parts or weights, and makes a smaller or sparser model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from langprune_cli.requests.shared import vocabulary
from langprune_cli.requests.shared.weights import note_cost
from langprune_cli.structured_patterns.pattern import Counted, Judged, get_pattern

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Callable

    from langprune_cli.defaults import Propagation
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.requests.shared.structured import PartOptions
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
    from langprune_cli.stages.prune.making import PruneOutcome
    from langprune_cli.stages.solving.choosing import WeightChooser
    from langprune_cli.stages.solving.unit_choosing import AnyChooser
    from langprune_cli.stages.statistics.sites import Solving
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.removals import Removal
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.target import Target
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec


@dataclass(frozen=True)
class Given:
    """The inputs of all steps."""

    run: Run
    specs: list[TextSpec]
    calibration: CalibrationSettings
    max_tokens: int | None  # the most tokens to count
    solving: Solving
    propagation: Propagation | None  # None: the method's own
    max_shard_bytes: int
    text_only: bool  # whether of a model that reads images the text tower is written alone


class Step(Protocol):
    """One step of `prune`: the parts or weights that leave together."""

    @property
    def touches_blocks(self) -> bool:
        """Return whether the step changes blocks; otherwise nothing needs an update or tuning."""

    @property
    def updates(self) -> bool:
        """Return whether the step can update kept weights of the blocks."""

    def make(self, given: Given, model: OpenedModel, to: Target) -> PruneOutcome:
        """Make the pruned model and the artifacts behind it, the mask last."""


@dataclass(frozen=True)
class WholeStep:
    """Removes the parts of one pattern that is chosen once for the whole model, such as tokens or blocks."""

    removal: Removal
    method: str | None = None  # None: the pattern's own

    updates = False

    @property
    def touches_blocks(self) -> bool:
        """Return whether the pattern changes blocks."""
        return get_pattern(self.removal.kind).touches_blocks

    def make(self, given: Given, model: OpenedModel, to: Target) -> PruneOutcome:
        """Choose, and write the smaller model; the first of several processes does it, since windows are not shared here."""
        return given.run.team.first(lambda: self._made(given, model, to))

    def _made(self, given: Given, model: OpenedModel, to: Target) -> PruneOutcome:
        from langprune_cli.stages.apply.apply import ApplySettings, apply  # noqa: PLC0415
        from langprune_cli.stages.mask.whole import mask_whole  # noqa: PLC0415
        from langprune_cli.stages.prune.making import PruneOutcome  # noqa: PLC0415

        run, settings = given.run, ApplySettings(max_shard_bytes=given.max_shard_bytes, text_only=given.text_only)
        choosing, statistics = self._choosing(given, model, to.between)
        mask = mask_whole(run.workspace, model, choosing, to.between)
        made = apply(run.workspace, model, mask.artifact, run.reporter, settings, to=to)
        return PruneOutcome(made, [*statistics, mask])

    def _choosing(self, given: Given, model: OpenedModel, to: Target) -> tuple[Choosing, list[Outcome]]:
        """Return the choice, and the statistics that were made for it."""
        from langprune_cli.stages.calibrate.calibrate import draw  # noqa: PLC0415
        from langprune_cli.stages.structured.judged_on import JudgedOn  # noqa: PLC0415

        run, pattern = given.run, get_pattern(self.removal.kind)
        if isinstance(pattern.leaves, Counted):
            specs = [each for spec in given.specs for each in spec.singles]
            counted = vocabulary.counted(run, model, specs, given.max_tokens, to)
            show = partial(vocabulary.note, run)
            return pattern.leaves.choosing(model, counted[-1].artifact, self.removal, show), counted
        assert isinstance(pattern.leaves, Judged)  # noqa: S101 - units leave block by block
        method = pattern.check_method(self.method or pattern.method)
        (windows,) = draw(model, given.specs[:1], given.calibration, run.reporter)
        judged_on = JudgedOn.of_windows(model, windows)
        return pattern.leaves.choosing(model, judged_on, self.removal, method, run.reporter), []


@dataclass(frozen=True)
class BlockStep:
    """Prunes block by block: channels and KV groups together, or single weights."""

    chooser: Callable[[OpenedModel], AnyChooser]
    update: str | None  # None: the method's own

    touches_blocks = updates = True

    @classmethod
    def of_units(cls, options: PartOptions, update: str | None) -> BlockStep:
        """Return the step of channels and KV groups."""
        return cls(options.chooser, update)

    @classmethod
    def of_weights(cls, chooser: WeightChooser, update: str | None) -> BlockStep:
        """Return the step of single weights."""
        return cls(lambda _model: chooser, update)

    def make(self, given: Given, model: OpenedModel, to: Target) -> PruneOutcome:
        """Calibrate, choose and update block by block."""
        from langprune_cli.stages.apply.apply import ApplySettings  # noqa: PLC0415
        from langprune_cli.stages.prune.making import PruneSettings  # noqa: PLC0415
        from langprune_cli.stages.prune.prune import prune  # noqa: PLC0415
        from langprune_cli.stages.solving.choosing import WeightChooser  # noqa: PLC0415
        from langprune_cli.updates.update import get_update  # noqa: PLC0415

        run, chooser = given.run, self.chooser(model)
        update = self.update or chooser.method.update
        if isinstance(chooser, WeightChooser) and update == "none":
            note_cost(run, chooser.method.name, chooser.settings)
        settings = ApplySettings(update, given.solving, given.max_shard_bytes, given.text_only)
        own = chooser.method.propagation if get_update(update).needs == "hessian" else "pruned"
        how = PruneSettings(chooser, settings, given.calibration, given.propagation or own)
        return prune(run.workspace, model, given.specs[0], how, run.reporter, to=to)
