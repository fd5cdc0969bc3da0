"""The hidden size: the residual stream of the whole model gets fewer coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.structured_patterns.pattern import Judged, StructuredPattern

if TYPE_CHECKING:  # the command line reads this file
    from collections.abc import Mapping

    from langprune_cli.hidden_methods.method import HiddenMethod
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.cut import Cut, Masks
    from langprune_cli.stages.structured.judged_on import JudgedOn
    from langprune_cli.stages.structured.removals import Removal, Rounding
    from langprune_cli.stages.structured.sketch import Sketch
    from langprune_cli.store.building import Reporter
    from langprune_cli.streaming.opened import OpenedModel


def plan(sketch: Sketch, removal: Removal, _rounding: Rounding) -> Sketch:
    """Return the sketch with a smaller hidden size."""
    from langprune_cli.stages.hidden.planning import with_smaller_hidden  # noqa: PLC0415

    return with_smaller_hidden(sketch, removal)


def choosing(model: OpenedModel, on: JudgedOn, removal: Removal, method: str, reporter: Reporter) -> Choosing:
    """Return the choice of coordinates."""
    from langprune_cli.stages.hidden.choosing import choosing_hidden  # noqa: PLC0415

    return choosing_hidden(model, on, removal, method, reporter)


def cut(model: OpenedModel, masks: Masks) -> Cut:
    """Return the cut of a mask of the hidden size."""
    from langprune_cli.stages.hidden.cut import hidden_cut  # noqa: PLC0415

    return hidden_cut(model, masks)


def methods() -> Mapping[str, HiddenMethod]:
    """Return the methods that choose coordinates."""
    from langprune_cli.hidden_methods.method import hidden_methods  # noqa: PLC0415

    return hidden_methods()


PATTERN = StructuredPattern(
    "hidden",
    "coordinates of the residual stream",
    2,
    Judged(cut, choosing),
    plan,
    method="pca",
    methods=methods,
    keeps_stream=False,
    unchanged="Every tensor that reads or writes the residual stream is in other coordinates.",
)
