"""A model as its configuration draws it, without weights, and what structured patterns would leave of it."""

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
from langprune_cli.stages.structured.removals import Removal, Rounding, check_distinct
from langprune_cli.stages.structured.without_blocks import check_shapes
from langprune_cli.tokens.choice import ids_in, replace_ids
from langprune_cli.units.experts import EXPERTS, expert_rows


@dataclass(frozen=True)
class AxisPlan:
    """What one pattern leaves."""

    pattern: str
    unit: str  # what is counted
    before: int
    after: int

    @property
    def removed(self) -> float:
        """Return the fraction removed."""
        return 1 - self.after / self.before if self.before else 0.0


@dataclass(frozen=True)
class Sketch:
    """A model's modules without weights, and what of them stays; which blocks leave is not known yet, the last ones count."""

    location: ModelLocation
    config: Configuration
    model: CausalModel
    build: Callable[[Configuration], CausalModel]  # configuration -> modules without weights
    axes: tuple[Axis, ...] = ()
    kept: Mapping[Kind, int] = field(default_factory=dict)  # units that stay of each kind
    blocks: int | None = None  # that stay; None: all
    tokens: int | None = None
    plans: tuple[AxisPlan, ...] = ()

    @property
    def layers(self) -> int:
        """Return how many blocks there are before any leaves."""
        return len(find_blocks(self.model)[1])

    @property
    def rows(self) -> int:
        """Return how many tokens there are before any leaves."""
        return self.config.get_text_config().vocab_size

    @property
    def stay(self) -> int:
        """Return how many blocks stay."""
        return self.layers if self.blocks is None else self.blocks

    @property
    def tokens_left(self) -> int:
        """Return how many tokens stay."""
        return self.rows if self.tokens is None else self.tokens

    def smaller(self) -> CausalModel:
        """Return the modules of what is left; raises LangpruneError where transformers would not open it."""
        if not self.plans:
            return self.model
        prefix, _ = find_blocks(self.model)
        raw = Narrowing(self.axes, dict(self.kept), tuple(range(self.stay)), prefix).config(self.raw(), self.config)
        if self.tokens_left < self.rows:
            raw = with_vocab_size(raw, self.config, self.tokens_left)
            replace_ids(raw, dict.fromkeys(ids_in(raw), 0))  # what they become is not known yet
        return self.build(opened_as(self.config, raw))

    def raw(self) -> dict[str, object]:
        """Return config.json as it is."""
        raw: dict[str, object] = json.loads((self.location.folder / CONFIG).read_bytes())
        return raw


def without_units(
    sketch: Sketch, removal: Removal, rounding: Rounding, axes: Sequence[Axis], *, rounds: bool
) -> Sketch:
    """Return what is left without a share of the units of these axes."""
    check_distinct(removal, axes, sketch.kept)
    kinds = {axis.kind: axis for axis in axes}
    kept = {kind: rounding.kept(removal, axis, rounds=rounds) for kind, axis in kinds.items()}
    plans = [AxisPlan(removal.kind, _per(kind), axis.units, kept[kind]) for kind, axis in kinds.items()]
    return replace(
        sketch,
        axes=(*sketch.axes, *axes),
        kept={**sketch.kept, **kept},
        plans=(*sketch.plans, *plans),
    )


def _per(kind: Kind) -> str:
    """Return what a number of units counts: channels per block, or per expert of it."""
    return "channels per expert" if kind == "expert-channels" else f"{kind} per block"


def without_blocks(sketch: Sketch, removal: Removal) -> Sketch:
    """Return what is left without a share of the blocks.

    Raises LangpruneError where none or all would leave, and where what stays would have other parameters.
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
    """Return what is left without a share of the experts of each block; raises LangpruneError if they cannot leave."""
    rows = expert_rows(sketch.config)
    left = rows.left(removal.sparsity)
    plan = AxisPlan(removal.kind, "experts per block", rows.units, left)
    return replace(
        sketch, axes=(*sketch.axes, rows.axis), kept={**sketch.kept, EXPERTS: left}, plans=(*sketch.plans, plan)
    )


def without_tokens(sketch: Sketch, removal: Removal) -> Sketch:
    """Return what is left where so many tokens stay as the removal's target says."""
    size = removal.target.size if removal.target else None
    tokens = sketch.rows if size is None else min(sketch.rows, size)
    plan = AxisPlan(removal.kind, "tokens", sketch.rows, tokens)
    return replace(sketch, tokens=tokens, plans=(*sketch.plans, plan))
