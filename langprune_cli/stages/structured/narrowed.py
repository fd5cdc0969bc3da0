"""Narrows an opened model to fewer units or blocks, if transformers can open the result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import KV_GROUPS, Axis, Kind
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing, blocks_prefix, opened_as, possible_groups
from langprune_cli.models.protocols import Configuration, block_count
from langprune_cli.models.skeleton import build_skeleton, parameter_shapes
from langprune_cli.stages.structured.removals import Removal, Rounding
from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True)
class Widths:
    """How many units of each kind stay: what a removal asks for, rounded."""

    removal: Removal
    rounding: Rounding
    rounds: bool  # whether kernels want multiples

    def kept(self, axes: Sequence[Axis], raw: dict[str, object], config: Configuration) -> dict[Kind, int]:
        """Return the number that stays of each kind; raw, config: the model's config.json, as in the file and opened.

        With --round nearest, of KV groups the nearest number that transformers opens the model with, the larger of two. Raises
        UsageError as `Rounding.kept` does.
        """
        kept = {axis.kind: self.rounding.kept(self.removal, axis, rounds=self.rounds) for axis in axes}
        units = next((axis.units for axis in axes if axis.kind == KV_GROUPS), 0)
        if self.rounding.nearest and kept.get(KV_GROUPS, 0) < units:
            possible, share = (
                possible_groups(axes, raw, config),
                Fraction(self.removal.sparsity).limit_denominator(10**9),
            )
            if kept[KV_GROUPS] not in possible and possible:
                kept[KV_GROUPS] = min(possible, key=lambda left: (abs(left - units * (1 - share)), -left))
        return kept


def narrowing_of(
    model: OpenedModel, axes: Sequence[Axis], kept: Mapping[Kind, int], blocks: Sequence[int] | None = None
) -> Narrowing:
    """Return the narrowing of a model to `kept` units of these axes in each block, and to these blocks (None: all).

    Raises LangpruneError for an unsupported checkpoint, and if transformers could not open the result.
    """
    config, every = model.streamed.config, tuple(range(len(model.streamed.blocks)))
    text = config.get_text_config()
    if len(every) != block_count(text):
        raise LangpruneError(
            f"config.json of this {text.model_type} counts {block_count(text)} layers and the model has {len(every)} blocks, "
            "so that it cannot describe a smaller one: use an unstructured or N:M pattern"
        )
    prefix = "" if blocks is None else blocks_prefix(model.streamed.tensor_paths(0), 0)
    narrowing = Narrowing(tuple(axes), dict(kept), every if blocks is None else tuple(blocks), prefix)
    smaller = narrowing.config(json.loads((model.location.folder / CONFIG).read_bytes()), config)
    if axes and text is not config:  # `check_without` compares the shapes of a model with fewer blocks
        _check_outside(model, smaller)
    return narrowing


def _check_outside(model: OpenedModel, smaller: dict[str, object]) -> None:
    """Raise LangpruneError if a number of the text tower also sizes what lies outside of it, as in idefics2's connector."""
    dense = model.streamed
    narrow = build_skeleton(
        opened_as(dense.config, smaller),
        dense.dtype,
        trust_remote_code=model.compute.trust_remote_code,
        names=dense.checkpoint.entries,
    )
    before, after = (parameter_shapes(each)[-1] for each in (dense.model, narrow))
    name = next((name for name in after if name in before and after[name] != before[name]), None)
    if name:
        raise LangpruneError(
            f"config.json of this {dense.config.model_type} cannot state it: {name}, outside of the text model, would become "
            f"{list(after[name])} as well: use another pattern"
        )
