"""Finds the cut of a structured mask."""

from langprune_cli.numerics.pattern_names import is_structured
from langprune_cli.stages.structured.cut import Cut, Masks
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.stages.structured.narrowing_cut import NarrowingCut
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.structured_patterns.pattern import unit_axes, whole_pattern


def cut_of(model: OpenedModel, masks: Masks) -> Cut | None:
    """Return the cut of a mask, None if it sets single weights to zero; raises LangpruneError for an unsupported model."""
    params = masks.manifest.params
    if not is_structured(params["pattern"]):
        return None
    if (pattern := whole_pattern(params["pattern"])) and pattern.whole:
        return pattern.whole.cut(model, masks)
    kept: dict[str, int] = params["kept"]
    axes = unit_axes(params["pattern"], model.streamed.config, tuple(kept))
    return NarrowingCut(model, narrowing_of(model, axes, kept), masks)
