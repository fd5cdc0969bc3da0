"""Finds where a model counts its experts: the number of the configuration, and the tensors with a row for each expert.

The number is the one that, changed, removes experts and rows of the router beside them, and changes nothing else.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.experts import AnyExperts, Experts
from langprune_cli.models.families import Axis, has_experts
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import Shapes, find_blocks
from langprune_cli.numerics.patterns import prune_count
from langprune_cli.units.changes import Count
from langprune_cli.units.small import build, few_blocks

EXPERTS = "experts"  # the kind of the axis
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k", "top_k_experts")


@dataclass(frozen=True)
class ExpertRows:
    """Where a model counts its experts."""

    name: str  # of the family
    keys: tuple[str, ...]  # of config.json, all names of one number
    units: int  # experts of a block
    chosen: int  # experts for each token
    groups: int  # consecutive experts that the router chooses among first; 1: it does not
    groups_chosen: int
    rows: Mapping[str, int]  # path of a router's tensor in a block -> the dimension that has an entry for each expert

    @property
    def axis(self) -> Axis:
        """Return what a configuration says of them."""
        return Axis(EXPERTS, self.units, 1, "", (), tuple((key, 1) for key in self.keys))

    def left(self, sparsity: float) -> int:
        """Return how many experts of a block stay: the whole part of units x sparsity goes.

        Raises LangpruneError if that is none, and if the router could not choose as many as it does among those that stay.
        """
        removed = prune_count(self.units, sparsity)
        left = self.units - removed
        if not removed:
            raise LangpruneError(
                f"--sparsity {sparsity:g} removes none of {self.units} experts: give "
                f"{math.ceil(1000 / self.units) / 1000:g} or more"
            )
        if not self.fits(left):
            possible = [each for each in range(1, self.units) if self.fits(each)]
            raise LangpruneError(f"{self._problem(left)}: {_advice(possible, self.units)}")
        return left

    def fits(self, left: int) -> bool:
        """Return whether the router can choose as many experts as it does among `left`."""
        of_group = left // self.groups
        return (
            left % self.groups == 0
            and of_group * self.groups_chosen >= self.chosen
            and (self.groups == 1 or of_group > 1)  # a group is rated by its two best experts
        )

    def _problem(self, left: int) -> str:
        what = f"this {self.name} sends each token to {self.chosen} of its {self.units} experts"
        if self.groups > 1:
            what += f", from {self.groups_chosen} of {self.groups} groups of equal size"
        return f"{what}, and with {left} experts it could not"


def _advice(possible: list[int], units: int) -> str:
    if not possible:
        return "prune channels, blocks or single weights"
    # Rounded up to four places: a slightly smaller share would remove one expert fewer.
    shares = [(left, -(-10_000 * (units - left) // units) / 10_000) for left in (possible[-1], possible[0])]
    named = [f"{share:g} ({left} stay)" for left, share in dict.fromkeys(shares)]
    return f"give a share of {' to '.join(named)}" if len(named) > 1 else f"give a share of {named[0]}"


def expert_rows(config: Configuration) -> ExpertRows:
    """Return where a model of this configuration counts its experts; raises LangpruneError if none can leave."""
    text = config.get_text_config()
    if getattr(text, "is_heterogeneous", False) and has_experts(config):
        raise LangpruneError(
            f"the blocks of this {text.model_type} have configurations of their own, and experts cannot leave: prune channels, "
            "blocks or single weights"
        )
    few = few_blocks(config)
    dense = build(few)
    counts = _counts(dense)
    if not counts and has_experts(config):
        raise LangpruneError(
            f"the experts of this {text.model_type} lie in a layout that is not known, and none can leave: prune channels, "
            "blocks or single weights"
        )
    if max(counts, default=0) < 2:
        what = "one expert" if counts else "no experts"
        raise LangpruneError(
            f"this {text.model_type} has {what}, so that none can leave: prune channels, blocks or single weights"
        )
    if len(set(counts)) > 1:
        raise LangpruneError(
            f"the blocks of this {text.model_type} have different numbers of experts, and its configuration cannot say what "
            "would be left of them: prune channels, blocks or single weights"
        )
    units = counts[0]
    values = vars(few.get_text_config())
    keys = [key for key, value in values.items() if type(value) is int and value == units]
    for key in sorted(keys, key=lambda key: "expert" not in key):  # stable
        rows = _rows(dense, few, key, units)
        if rows is not None:
            chosen = next((found for name in _CHOSEN if type(found := getattr(text, name, None)) is int), 1)
            groups = getattr(text, "n_group", None) or 1
            of_groups = getattr(text, "topk_group", None) or groups
            names = (key, *(other for other, named in text.attribute_map.items() if named == key))
            return ExpertRows(text.model_type, names, units, chosen, groups, min(of_groups, groups), rows)
    raise LangpruneError(
        f"no number in the configuration of this {text.model_type} was found that counts its {units} experts and nothing "
        "else: prune channels, blocks or single weights"
    )


def few_experts(config: Configuration) -> tuple[Configuration, int]:
    """Return the configuration with a few experts more than each token goes to, and how many it has itself.

    The configuration as it is, and 0, where experts cannot leave.
    """
    try:
        rows = expert_rows(config)
    except LangpruneError:
        return config, 0
    left = next((each for each in range(rows.chosen + 1, rows.units) if rows.fits(each)), rows.units)
    return Count(rows.units, rows.axis.numbers).stated(config, left), rows.units


def for_each_expert(axes: Sequence[Axis], few: CausalModel, units: int) -> tuple[Axis, ...]:
    """Return the axes of a model with `units` experts, of those of `few`: what its last expert has, each further one has."""
    found = next((here for block in find_blocks(few)[1] if (here := experts_in(block))), None)
    if found is None:
        return tuple(axes)
    count = len(found[1])
    before = f"{found[0]}.{count - 1}."
    last = [axis for axis in axes if axis.reader.startswith(before)]
    at = max((number for number, axis in enumerate(axes) if axis in last), default=-1) + 1
    more = [_of_expert(axis, before, f"{found[0]}.{each}.") for each in range(count, units) for axis in last]
    return (*axes[:at], *more, *axes[at:])


def _of_expert(axis: Axis, before: str, instead: str) -> Axis:
    """Return the axis of another expert."""
    slices = tuple(replace(each, path=each.path.replace(before, instead)) for each in axis.slices)
    return replace(axis, reader=axis.reader.replace(before, instead), slices=slices)


def passing_on(model: CausalModel) -> bool:
    """Return whether tokens may also go to experts that hand on what they are given."""
    return any(isinstance(each, Experts) and each.form.passes_on for each in model.modules())


def experts_in(block: nn.Module) -> tuple[str, Experts] | None:
    """Return the experts of a block with their path, None if it has none."""
    return next(((path, each) for path, each in block.named_modules() if isinstance(each, Experts)), None)


def _counts(model: CausalModel) -> list[int]:
    """Return the number of experts of each block that has some; raises LangpruneError if they cannot leave."""
    found = []
    for block in find_blocks(model)[1]:
        here = [each for each in block.modules() if isinstance(each, AnyExperts)]
        if not here:
            continue
        numbered = any(
            not each.is_floating_point() for each in block.state_dict().values()
        )  # experts by token (deepseek_v4)
        several = len(here) > 1 or not isinstance(here[0], Experts)  # jetmoe
        if several or numbered:
            what = (
                "its attention has experts of its own"
                if several
                else "it numbers the experts of each token of the vocabulary"
            )
            raise LangpruneError(
                f"experts cannot leave this {model.config.get_text_config().model_type}, since {what}: prune channels, blocks or "
                "single weights"
            )
        found.append(len(here[0]))
    return found


def _rows(dense: CausalModel, config: Configuration, key: str, units: int) -> dict[str, int] | None:
    """Return the router's tensors if `key` counts the experts, None if it does not."""
    found: dict[str, int] = {}
    for left in dict.fromkeys((units - 1, units // 2)):  # some families want even numbers, or divisors
        smaller = _built(Count(units, ((key, 1),)), config, left)
        if smaller is None:
            continue
        pairs = list(zip(_blocks(dense), _blocks(smaller), strict=True))
        cuts = [_cut(*one, *other, units, left) for one, other in pairs]
        if all(cut is not None for cut in cuts) and _outside(dense) == _outside(smaller):
            for cut in cuts:
                found |= cut or {}
            return (
                found if all(bool(cut) == bool(path) for cut, ((path, _), _) in zip(cuts, pairs, strict=True)) else None
            )
    return None


def _built(count: Count, config: Configuration, left: int) -> CausalModel | None:
    try:
        return build(count.stated(config, left))
    except Exception:  # noqa: BLE001 - whatever a family's code says of numbers that it does not take
        return None


def _blocks(model: CausalModel) -> list[tuple[str, Shapes]]:
    """Return the path of the experts in each block, "" without any, and the shapes of parameters and buffers."""
    found = []
    for block in find_blocks(model)[1]:
        experts = experts_in(block)
        shapes = {path: tuple(each.shape) for path, each in block.state_dict().items()}
        found.append((experts[0] if experts else "", shapes))
    return found


def _outside(model: CausalModel) -> Shapes:
    prefix, _ = find_blocks(model)
    return {path: tuple(each.shape) for path, each in model.state_dict().items() if not path.startswith(f"{prefix}.")}


def _cut(experts: str, before: Shapes, other: str, after: Shapes, units: int, left: int) -> dict[str, int] | None:
    """Return the dimension of each tensor that has an entry for each expert; None if a block changes in another way.

    Entries may follow for experts that hand on what they are given (longcat_flash).
    """
    gone = tuple(f"{experts}.{number}." for number in range(left, units)) if experts else ()
    stay = {path: shape for path, shape in before.items() if not path.startswith(gone or ("\0",))}
    if experts != other or stay.keys() != after.keys() or (experts and len(stay) == len(before)):
        return None
    found = {}
    for path, shape in stay.items():
        if shape == after[path]:
            continue
        dims = [dim for dim, (one, two) in enumerate(zip(shape, after[path], strict=False)) if one != two]
        if len(shape) != len(after[path]) or len(dims) != 1 or shape[dims[0]] - after[path][dims[0]] != units - left:
            return None
        if shape[dims[0]] < units:
            return None
        found[path] = dims[0]
    return found
