"""Whole experts: every block of a mixture loses the same number, with the router's rows for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.structured_patterns.pattern import Judged, StructuredPattern

if TYPE_CHECKING:  # the command line reads this file
    from collections.abc import Mapping

    from langprune_cli.expert_methods.method import ExpertMethod
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.cut import Cut, Masks
    from langprune_cli.stages.structured.judged_on import JudgedOn
    from langprune_cli.stages.structured.removals import Removal, Rounding
    from langprune_cli.stages.structured.sketch import Sketch
    from langprune_cli.store.building import Reporter
    from langprune_cli.streaming.opened import OpenedModel


def plan(sketch: Sketch, removal: Removal, _rounding: Rounding) -> Sketch:
    """Return the sketch without a share of the experts."""
    from langprune_cli.stages.structured.sketch import without_experts  # noqa: PLC0415

    return without_experts(sketch, removal)


def choosing(model: OpenedModel, on: JudgedOn, removal: Removal, method: str, reporter: Reporter) -> Choosing:
    """Return the choice of experts."""
    from langprune_cli.stages.structured.whole_experts import choosing_experts  # noqa: PLC0415

    return choosing_experts(model, on, removal, method, reporter)


def cut(model: OpenedModel, masks: Masks) -> Cut:
    """Return the cut of a mask of experts."""
    from langprune_cli.stages.structured.whole_experts import expert_cut  # noqa: PLC0415

    return expert_cut(model, masks)


def methods() -> Mapping[str, ExpertMethod]:
    """Return the methods that choose experts."""
    from langprune_cli.expert_methods.method import expert_methods  # noqa: PLC0415

    return expert_methods()


PATTERN = StructuredPattern("experts", "whole experts", 3, Judged(cut, choosing), plan, method="reap", methods=methods)
