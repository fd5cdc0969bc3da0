"""What a smaller hidden size leaves of a model, from its configuration alone."""

from dataclasses import replace

from langprune_cli.stages.hidden.choosing import hidden_that_stays
from langprune_cli.stages.hidden.cut import HIDDEN, hidden_axis
from langprune_cli.stages.structured.removals import Removal
from langprune_cli.stages.structured.sketch import AxisPlan, Sketch
from langprune_cli.units.hidden import found_stream, hidden_count


def with_smaller_hidden(sketch: Sketch, removal: Removal) -> Sketch:
    """Return the sketch with a smaller hidden size; raises LangpruneError as the choice does."""
    found_stream(sketch.config)
    count, left = hidden_count(sketch.config), hidden_that_stays(sketch.config, removal.sparsity)
    axis = hidden_axis(sketch.config)
    plan = AxisPlan(removal.kind, "coordinates of the residual stream", count.units, left)
    return replace(sketch, axes=(*sketch.axes, axis), kept={**sketch.kept, HIDDEN: left}, plans=(*sketch.plans, plan))
