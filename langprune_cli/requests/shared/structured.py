"""Channels, KV groups and blocks: what requests say of them, as the stages take it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.weights import solving_of

if TYPE_CHECKING:  # torch takes seconds to import, and a request that is wrong is refused before
    from collections.abc import Mapping

    from langprune_cli.requests.shared.choice import ChoiceOptions
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
    from langprune_cli.stages.solving.unit_choosing import UnitChooser
    from langprune_cli.stages.statistics.sites import Solving
    from langprune_cli.stages.structured.structures import Rounding, Structure
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.target import Target
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec
    from langprune_cli.unit_methods.method import UnitMethod

_UNITS, BLOCKS = "osscar", "search"  # the methods where none is named


@dataclass(frozen=True)
class UnitOptions:
    """What a request says of parts that leave whole."""

    structures: tuple[Structure, ...]
    method: str | None
    rounding: Rounding
    solving: Solving

    @property
    def units(self) -> tuple[Structure, ...]:
        """Return the kinds that leave every block."""
        return tuple(each for each in self.structures if each.kind != "blocks")

    @property
    def blocks(self) -> Structure | None:
        """Return what is said of whole blocks."""
        return next((each for each in self.structures if each.kind == "blocks"), None)

    def method_of_units(self) -> UnitMethod:
        """Return the method for channels and groups."""
        from langprune_cli.unit_methods.method import get_unit_method  # noqa: PLC0415

        return get_unit_method(self.method or _UNITS)

    def chooser(self, model: OpenedModel) -> UnitChooser:
        """Return what chooses channels and groups of a model."""
        from langprune_cli.stages.solving.unit_choosing import UnitChooser  # noqa: PLC0415

        return UnitChooser.of(self.method_of_units(), self.units, model, self.rounding, self.solving)


def unit_options(
    patterns: list[str], method: str | None, request: ChoiceOptions, *, sparsity: float | None, round_to: int | None,
    of_weights: Mapping[str, object],
) -> UnitOptions | None:  # fmt: skip
    """Return the options where a pattern is structured, None where it is of weights.

    sparsity, round_to: as the request has them, None where they are about other parts.
    of_weights: options that only patterns of weights have, by name; those that were not given are falsy.
    """
    from langprune_cli.stages.structured.structures import Rounding, parse_structures, spelled, split_patterns  # noqa: PLC0415

    structured, single = split_patterns(patterns)
    if len(single) > 1:
        raise UsageError(f"--pattern {' and --pattern '.join(single)} are both about single weights: give one of them")
    if structured and single:
        raise UsageError(
            f"--pattern {single[0]} and {', '.join(structured)} are chosen one after the other: run mask and apply for "
            f"{structured[0]} first, then for {single[0]} on that model, or all of it with langprune prune"
        )
    structures = parse_structures(structured, sparsity)
    if not any(each.kind == "channels" for each in structures) and (round_to or request.rounding != "down"):
        raise UsageError("--round-to and --round go with --pattern channels only: leave them out")
    if not structures:
        return None
    for option, value in of_weights.items():
        if value:
            raise UsageError(f"{option} does not go with --pattern {spelled(structures)}: leave it out")
    solving = solving_of(request.damping, request.min_expert_tokens)
    return UnitOptions(structures, method, Rounding(round_to, request.rounding == "nearest"), solving)


def without_blocks(
    run: Run, model: OpenedModel, spec: TextSpec, calibration: CalibrationSettings, options: UnitOptions, *,
    max_shard_bytes: int, to: Target,
) -> tuple[OpenedModel, list[Outcome]]:  # fmt: skip
    """Make a model without the blocks that are to leave, and open it; return it, and what was made: itself, statistics, mask.

    The same model and nothing where all blocks stay.
    """
    from langprune_cli.depth_methods.method import blocks_that_stay, get_depth_method  # noqa: PLC0415
    from langprune_cli.stages.apply.apply import ApplySettings, apply  # noqa: PLC0415
    from langprune_cli.stages.calibrate.calibrate import calibrate  # noqa: PLC0415
    from langprune_cli.stages.mask.block_mask import mask_blocks  # noqa: PLC0415
    from langprune_cli.stages.structured.without_blocks import check_first_run  # noqa: PLC0415
    from langprune_cli.streaming.opened import ModelChoice  # noqa: PLC0415

    structure, workspace, reporter = options.blocks, run.workspace, run.reporter
    if structure is None:
        return model, []
    method = BLOCKS if options.method is None or options.units else options.method
    get_depth_method(method)
    blocks = len(model.streamed.blocks)
    leaving = blocks - blocks_that_stay(blocks, structure.sparsity)
    check = partial(check_first_run, model, leaving)
    (stats,) = calibrate(workspace, model, [spec], calibration, reporter, force=to.force, before=check)
    masks = mask_blocks(workspace, model, stats.artifact, structure, method, reporter, force=to.force)
    settings = ApplySettings(max_shard_bytes=max_shard_bytes)
    made = apply(workspace, model, masks.artifact, reporter, settings, name=to.name, out=to.out, force=to.force)
    smaller = run.open(ModelChoice(str(made.artifact.folder)))
    return smaller, [made, stats, masks]
