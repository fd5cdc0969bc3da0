"""Whole blocks: the calibration text decides which of them leave, wherever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.structured_patterns.pattern import Judged, StructuredPattern

if TYPE_CHECKING:  # the command line reads this file
    from collections.abc import Mapping

    from langprune_cli.depth_methods.method import DepthMethod
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.cut import Cut, Masks
    from langprune_cli.stages.structured.judged_on import JudgedOn
    from langprune_cli.stages.structured.removals import Removal, Rounding
    from langprune_cli.stages.structured.sketch import Sketch
    from langprune_cli.store.building import Reporter
    from langprune_cli.streaming.opened import OpenedModel


def plan(sketch: Sketch, removal: Removal, _rounding: Rounding) -> Sketch:
    """Return the sketch without a share of the blocks."""
    from langprune_cli.stages.structured.sketch import without_blocks  # noqa: PLC0415

    return without_blocks(sketch, removal)


def choosing(model: OpenedModel, on: JudgedOn, removal: Removal, method: str, reporter: Reporter) -> Choosing:
    """Return the choice of blocks."""
    from langprune_cli.stages.structured.block_choosing import choosing_blocks  # noqa: PLC0415

    return choosing_blocks(model, on, removal, method, reporter)


def cut(model: OpenedModel, masks: Masks) -> Cut:
    """Return the cut of a mask of blocks."""
    from langprune_cli.stages.structured.block_cut import block_cut  # noqa: PLC0415

    return block_cut(model, masks)


def methods() -> Mapping[str, DepthMethod]:
    """Return the methods that choose blocks."""
    from langprune_cli.depth_methods.method import depth_methods  # noqa: PLC0415

    return depth_methods()


PATTERN = StructuredPattern("blocks", "whole blocks", 4, Judged(cut, choosing), plan, method="search", methods=methods)
