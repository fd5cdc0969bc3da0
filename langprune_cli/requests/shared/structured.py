"""Translates a request's structured patterns for the stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.weights import solving_of
from langprune_cli.structured_patterns.pattern import (
    check_rounding,
    get_pattern,
    parse_removals,
    split_patterns,
)

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Mapping

    from langprune_cli.requests.shared.choice import ChoiceOptions
    from langprune_cli.stages.solving.unit_choosing import UnitChooser
    from langprune_cli.stages.statistics.sites import Solving
    from langprune_cli.stages.structured.removals import Removal, Rounding
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.unit_methods.method import UnitMethod


@dataclass(frozen=True)
class PartOptions:
    """A request's options for structured patterns."""

    removals: tuple[Removal, ...]
    method: str | None
    rounding: Rounding
    solving: Solving

    @property
    def units(self) -> tuple[Removal, ...]:
        """Return the removals of units, which leave every block."""
        return tuple(each for each in self.removals if get_pattern(each.kind).units)

    @property
    def wholes(self) -> tuple[Removal, ...]:
        """Return the removals chosen once for the whole model, in the order of pruning: the last listed first."""
        return tuple(each for each in reversed(self.removals) if get_pattern(each.kind).whole)

    def method_of_units(self) -> UnitMethod:
        """Return the method for units."""
        from langprune_cli.stages.solving.unit_choosing import unit_method  # noqa: PLC0415

        return unit_method(self.units, self.method)

    def chooser(self, model: OpenedModel) -> UnitChooser:
        """Return the chooser of a model's units."""
        from langprune_cli.stages.solving.unit_choosing import UnitChooser  # noqa: PLC0415

        return UnitChooser.of(self.method_of_units(), self.units, model, self.rounding, self.solving)


def part_options(
    patterns: list[str], method: str | None, request: ChoiceOptions, *, sparsity: float | None, round_to: int | None,
    of_weights: Mapping[str, object],
) -> PartOptions | None:  # fmt: skip
    """Return the options if a pattern is structured, None if it is of weights.

    sparsity, round_to: the request's, None if they are for other parts.
    of_weights: options for single weights only, by name; falsy if not given.
    """
    from langprune_cli.stages.structured.removals import Rounding, spelled  # noqa: PLC0415

    structured, single = split_patterns(patterns)
    if structured and single:
        raise UsageError(
            f"--pattern {single} and {', '.join(structured)} need separate masks: run mask and apply for "
            f"{structured[0]} first, then for {single} on that model, or all at once with langprune prune"
        )
    removals = parse_removals(structured, sparsity)
    rounding = Rounding(round_to, request.rounding == "nearest")
    check_rounding(removals, rounding.to, nearest=rounding.nearest)
    if not removals:
        return None
    for option, value in of_weights.items():
        if value:
            raise UsageError(f"{option} does not go with --pattern {spelled(removals)}: leave it out")
    solving = solving_of(request.damping, request.min_expert_tokens)
    return PartOptions(removals, method, rounding, solving)
