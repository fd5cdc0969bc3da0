"""A model's modules without weights, made from its configuration, and the smaller model that structured patterns leave."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from langprune_cli.depth_methods.method import blocks_that_stay
from langprune_cli.location.location import ModelLocation
from langprune_cli.models.families import Axis, Kind
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing, opened_as
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.vocabulary_rows import with_vocab_size
from langprune_cli.stages.structured.narrowed import Widths
from langprune_cli.stages.structured.removals import Removal, Rounding, check_distinct
from langprune_cli.stages.structured.without_blocks import check_shapes
from langprune_cli.tokens.choice import ids_in, replace_ids
from langprune_cli.units.experts import EXPERTS, expert_rows


@dataclass(frozen=True)
class AxisPlan:
    """The number of parts before and after one pattern."""

    pattern: str
    unit: str  # the parts counted, such as "channels per block"
    before: int
    after: int

    @property
    def removed(self) -> float:
        """Return the fraction removed."""
        return 1 - self.after / self.before if self.before else 0.0


@dataclass(frozen=True)
class Sketch:
    """A model's modules without weights, and the parts to keep; as the choice of blocks is not known yet, the last ones stay."""

    location: ModelLocation
    config: Configuration
    model: CausalModel
    build: Callable[[Configuration], CausalModel]  # configuration -> modules without weights
    axes: tuple[Axis, ...] = ()
    kept: Mapping[Kind, int] = field(default_factory=dict)  # units to keep of each kind
    blocks: int | None = None  # to keep; None: all
    tokens: int | None = None  # to keep; None: all
    plans: tuple[AxisPlan, ...] = ()

    @property
    def layers(self) -> int:
        """Return the number of blocks of the dense model."""
        return len(find_blocks(self.model)[1])

    @property
    def rows(self) -> int:
        """Return the number of tokens of the dense model."""
        return self.config.get_text_config().vocab_size

    @property
    def stay(self) -> int:
        """Return the number of blocks to keep."""
        return self.layers if self.blocks is None else self.blocks

    @property
    def tokens_left(self) -> int:
        """Return the number of tokens to keep."""
        return self.rows if self.tokens is None else self.tokens

    def smaller(self) -> CausalModel:
        """Return the smaller model's modules; raises LangpruneError if transformers could not open it."""
        if not self.plans:
            return self.model
        prefix, _ = find_blocks(self.model)
        raw = Narrowing(self.axes, dict(self.kept), tuple(range(self.stay)), prefix).config(self.raw(), self.config)
        if self.tokens_left < self.rows:
            raw = with_vocab_size(raw, self.config, self.tokens_left)
            replace_ids(raw, dict.fromkeys(ids_in(raw), 0))  # the new ids are not known yet
        return self.build(opened_as(self.config, raw))

    def raw(self) -> dict[str, object]:
        """Return the unchanged config.json."""
        raw: dict[str, object] = json.loads((self.location.folder / CONFIG).read_bytes())
        return raw


def without_units(
    sketch: Sketch, removal: Removal, rounding: Rounding, axes: Sequence[Axis], *, rounds: bool
) -> Sketch:
    """Return the sketch without a share of the units of these axes."""
    check_distinct(removal, axes, sketch.kept)
    kinds = {axis.kind: axis for axis in axes}
    kept = Widths(removal, rounding, rounds).kept(axes, sketch.raw(), sketch.config)
    plans = [AxisPlan(removal.kind, _per(kind), axis.units, kept[kind]) for kind, axis in kinds.items()]
    return replace(
        sketch,
        axes=(*sketch.axes, *axes),
        kept={**sketch.kept, **kept},
        plans=(*sketch.plans, *plans),
    )


def _per(kind: Kind) -> str:
    """Return the name of a count of units: channels per block, or per expert."""
    return "channels per expert" if kind == "expert-channels" else f"{kind} per block"


def without_blocks(sketch: Sketch, removal: Removal) -> Sketch:
    """Return the sketch without a share of the blocks.

    Raises LangpruneError if none or all would leave, or if the others would get other parameters.
    """
    layers = sketch.layers
    stay = blocks_that_stay(layers, removal.sparsity)
    last = tuple(range(layers - stay, layers))
    prefix, _ = find_blocks(sketch.model)
    without = Narrowing((), {}, last, prefix).config(sketch.raw(), sketch.config)
    check_shapes(sketch.model, sketch.build(opened_as(sketch.config, without)), last)
    plan = AxisPlan(removal.kind, "blocks", layers, stay)
    return replace(sketch, blocks=stay, plans=(*sketch.plans, plan))


def without_experts(sketch: Sketch, removal: Removal) -> Sketch:
    """Return the sketch without a share of each block's experts; raises LangpruneError if they cannot leave."""
    rows = expert_rows(sketch.config)
    left = rows.left(removal.sparsity)
    plan = AxisPlan(removal.kind, "experts per block", rows.units, left)
    return replace(
        sketch, axes=(*sketch.axes, rows.axis), kept={**sketch.kept, EXPERTS: left}, plans=(*sketch.plans, plan)
    )


def without_tokens(sketch: Sketch, removal: Removal) -> Sketch:
    """Return the sketch with the target's number of tokens; all of them if only a coverage is given."""
    size = removal.target.size if removal.target else None
    tokens = sketch.rows if size is None else min(sketch.rows, size)
    plan = AxisPlan(removal.kind, "tokens", sketch.rows, tokens)
    return replace(sketch, tokens=tokens, plans=(*sketch.plans, plan))
