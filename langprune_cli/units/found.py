"""Finds channels and KV groups of a family outside of the table: changes numbers of the configuration, then measures.

A number counts units where another value of it changes inputs of some linears, and outputs of what writes them, by as much as
it says, and nothing else. How units lie in a fused tensor cannot be seen from shapes: the first way that the measurement
confirms is taken. All of it is done with a small model of the same kind (`units/small.py`); the large one's shapes are compared.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice, product

import torch

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import Axis, Slice
from langprune_cli.models.protocols import Configuration
from langprune_cli.units.changes import Count, Skeleton
from langprune_cli.units.experts import few_experts, for_each_expert, passing_on
from langprune_cli.units.measured import Measure
from langprune_cli.units.small import Known, build, few_blocks, narrow_widths

# Numbers that count no channels: entries of heads, ranks of factors, tokens, what state-space and attention layers have.
_OTHERS = re.compile(
    r"head|rank|token|vocab|layer|position|^hidden_size|n_embd|d_model|att|mamba|ssm|lora|window|group|top_?k|experts|per_tok|multiple|expan|_of$"
)
_WIDTH = re.compile(r"inner|intermediate|ffn|ff_dim")  # of keys whose value may follow from others
_MOST_LAYOUTS = 12
_DTYPES = torch.float64, torch.float32  # the first that a family's code runs in: differences stand out more

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class _Pair:
    """A model with its true widths and a few of its experts, and a small one of the same kind."""

    true: Skeleton
    measure: Measure
    experts: int  # of a block of the model; `true` has only a few of them

    @property
    def small(self) -> Skeleton:
        """Return the small model."""
        return self.measure.dense

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Return the widths of matrices, of the true model and of the small one; the hidden size comes last."""
        hidden = self.true.config.get_text_config().hidden_size
        pairs = zip(self.true.shapes, self.small.shapes, strict=True)
        shapes = [(shape, small[path]) for true, small in pairs for path, shape in true.items() if len(shape) == 2]
        found = dict.fromkeys(each for one, other in shapes for each in zip(one, other, strict=True))
        return sorted(found, key=lambda each: each[0] == hidden)

    @property
    def name(self) -> str:
        """Return the family's name."""
        return self.true.config.get_text_config().model_type


def found_channels(config: Configuration) -> tuple[Axis, ...]:
    """Return the axes of channels; raises LangpruneError where there are none that the measurement confirms."""
    return _channels(Known(config))


def found_groups(config: Configuration) -> tuple[Axis, ...]:
    """Return the axis of KV groups of each kind of attention; raises LangpruneError where there is none that can leave."""
    return _groups(Known(config))


@lru_cache(maxsize=4)
def _pair(known: Known) -> _Pair:
    few, experts = few_experts(few_blocks(known.config))
    small = narrow_widths(few)
    measures = (Measure.of(Skeleton(small, build(small, dtype), partial(build, dtype=dtype))) for dtype in _DTYPES)
    measure = next((each for each in measures if each.logits is not None), None)
    if measure is None:
        raise LangpruneError(
            f"Channels and KV groups of this {known.config.get_text_config().model_type} cannot be removed (a small model of "
            "this kind, on which it would be tried, does not run): prune it with an unstructured or N:M pattern"
        )
    return _Pair(Skeleton(few, build(few), build), measure, experts)


@lru_cache(maxsize=8)
def _channels(known: Known) -> tuple[Axis, ...]:
    pair = _pair(known)
    found: dict[str, tuple[Axis, ...]] = {}
    problems: list[str] = []
    for key in _keys(pair.true.config):
        for of_true, of_small in _counts(pair, key):
            axes = _confirmed(pair, of_true, of_small, _feed_forward, problems)
            if axes and axes[0].kind == "expert-channels" and passing_on(pair.true.model):
                problems.append("experts that hand on what they are given have matrices of the same width in its file")
            elif axes:
                kind = axes[0].kind if axes[0].kind not in found else f"{axes[0].kind}-of-{key}"
                axes = for_each_expert(axes, pair.true.model, pair.experts)
                found[kind] = tuple(replace(axis, kind=kind) for axis in axes)
                break
    if not found:
        why = problems[0] if problems else "no number of its configuration counts them"
        raise LangpruneError(
            f"Channels of this {pair.name} cannot be removed ({why}): prune it with an unstructured or N:M pattern"
        )
    return tuple(axis for axes in found.values() for axis in axes)


def _keys(config: Configuration) -> list[str]:
    text = config.get_text_config()
    return [
        key
        for key, value in text.to_dict().items()
        if not _OTHERS.search(key) and (_number(value) or (value is None and _WIDTH.search(key)))
    ]


def _number(value: object) -> int:
    """Return the width that a value of a configuration states, 0 for none; a list may state the same for each block."""
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]
    return value if type(value) is int and value > 1 else 0


def _counts(pair: _Pair, key: str) -> Iterator[tuple[Count, Count]]:
    """Yield what a key may count: its value, or the width of some linear that it would state as well.

    A key may have no value (gpt2's n_inner is None where it is four times the hidden size), or one that code rounds
    unless it is told not to (lfm2's block_auto_adjust_ff_dim).
    """
    texts = [side.config.get_text_config().to_dict() for side in (pair.true, pair.small)]
    if all(_number(text[key]) for text in texts):
        of_true, of_small = (Count(_number(text[key]), ((key, 1),)) for text in texts)
        yield of_true, of_small
    elif texts[0][key] is not None:
        return
    adjusted = tuple((name, False) for name, value in texts[0].items() if value is True and "adjust" in name)
    if texts[0][key] is None or (adjusted and _WIDTH.search(key)):
        for units, others in pair.widths:
            yield tuple(Count(each, ((key, 1),), adjusted, assumed=True) for each in (units, others))  # type: ignore[misc] # two


def _feed_forward(side: Skeleton, axes: Sequence[Axis]) -> bool:
    """Return whether the readers put out what the blocks hand on, and the writers read that."""
    hidden = side.config.get_text_config().hidden_size
    return all(_across(side, cut) in (None, hidden) for axis in axes for cut in axis.slices)


def _across(side: Skeleton, cut: Slice) -> int | None:
    """Return the size of a matrix in its other dimension, None for a vector."""
    shape = next(shapes[cut.path] for shapes in side.shapes if cut.path in shapes)
    return shape[1 - cut.dim] if len(shape) == 2 else None


def _confirmed(
    pair: _Pair,
    of_true: Count,
    of_small: Count,
    fits: Callable[[Skeleton, Sequence[Axis]], bool],
    problems: list[str],
) -> tuple[Axis, ...]:
    """Return the axes of the true model that a number counts, with the layout that the small one confirms.

    Nothing where it counts no units; what the measurement says against it is added to `problems`.
    """
    tried = (pair.true.axes(of_true, left) for left in _fewer(of_true.units))
    wide = next((axes for axes in tried if axes is not None), ())
    if not wide or not fits(pair.true, wide):
        return ()
    for left in _fewer(of_small.units):
        narrow = pair.small.axes(of_small, left)
        if narrow is None or [axis.reader for axis in narrow] != [axis.reader for axis in wide]:
            continue
        for layout in islice(_layouts(narrow), _MOST_LAYOUTS):
            axes = _laid(narrow, layout)
            problem = pair.measure.difference(axes, of_small.stated(pair.small.config, left), left)
            if problem is None:
                return _laid(wide, layout)
            problems.append(problem)
    return ()


def _fewer(units: int) -> list[int]:
    """Return numbers of units to try: half of them, which most codes can divide as they could the whole."""
    return list(dict.fromkeys(left for left in (units // 2, units * 3 // 4, units - 1, 1) if 0 < left < units))


# How the entries of a tensor lie that are more per unit than the reader's columns: of its units one after the other, in
# segments of all units' halves or thirds ([gate; up]), or of queries, keys and values.
_LAYOUTS: dict[str, Callable[[int, int], Sizes]] = {
    "units": lambda each, _: (each,),
    "halves": lambda each, _: (each // 2,) * 2,
    "q-k-v": lambda each, reader: (reader, (each - reader) // 2, (each - reader) // 2),
    "thirds": lambda each, _: (each // 3,) * 3,
}  # fmt: skip


def _layouts(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Yield ways in which the units may lie in the tensors that are fused, by the last part of their module's path."""
    open_: dict[str, list[str]] = {}
    for axis in axes:
        for cut in axis.slices:
            each = cut.sizes[0]
            ways = [
                name
                for name, sizes in _LAYOUTS.items()
                if min(made := sizes(each, axis.size)) > 0 and sum(made) == each
            ]
            if each > axis.size and len(ways) > 1:
                open_[_module(cut)] = sorted(ways, key=list(_LAYOUTS).index, reverse=axis.size == 1)
    for choice in product(*open_.values()):
        yield dict(zip(open_, choice, strict=True))


def _module(cut: Slice) -> str:
    return cut.path.split(".")[-2]


def _laid(axes: Sequence[Axis], layout: dict[str, str]) -> tuple[Axis, ...]:
    """Return the axes with their units laid out so."""
    made = []
    for axis in axes:
        slices = [
            replace(cut, sizes=_LAYOUTS[layout[_module(cut)]](cut.sizes[0], axis.size))
            if cut.sizes[0] > axis.size and _module(cut) in layout
            else cut
            for cut in axis.slices
        ]
        made.append(replace(axis, slices=tuple(slices)))
    return tuple(made)


@lru_cache(maxsize=8)
def _groups(known: Known) -> tuple[Axis, ...]:
    text = known.config.get_text_config()
    name, heads = text.model_type, getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise LangpruneError(
            f"This {name} states no number of attention heads for all blocks: prune with another pattern"
        )
    if "lsh" in (getattr(text, "attn_layers", None) or ()):
        raise LangpruneError(
            f"KV groups of this {name} cannot leave, since fewer heads are hashed otherwise: prune channels"
        )
    if getattr(text, "kv_lora_rank", None):
        raise LangpruneError(
            f"All heads of this {name} compute keys and values from one latent vector, so it has no KV groups: prune its "
            "channels or blocks"
        )
    keys = [key for key in ("num_key_value_heads", "num_kv_heads") if isinstance(getattr(text, key, None), int)]
    groups = getattr(text, keys[0]) if keys else heads
    if groups == 1:
        raise LangpruneError(
            f"This {name} has a single KV group in each block, which must stay: prune its channels or blocks"
        )
    pair = _pair(known)
    problems: list[str] = []
    numbers = (("num_attention_heads", heads // groups), *((key, 1) for key in keys[:1]))
    computed = isinstance(getattr(type(text), "head_dim", None), property)  # of falcon: it cannot be stated
    for stated in (False,) if computed else (True, False):
        of_true, of_small = (
            Count(
                groups, numbers, (("head_dim", _head_width(side.config)),) if stated else (), heads=True, assumed=stated
            )
            for side in (pair.true, pair.small)
        )
        if axes := _confirmed(pair, of_true, of_small, lambda _, axes: bool(axes), problems):
            return axes
    if problems:
        raise LangpruneError(
            f"KV groups of this {name} cannot be removed ({problems[0]}): prune its channels or blocks"
        )
    raise LangpruneError(
        f"The config.json of this {name} cannot state fewer heads of the same width: prune its channels or blocks, not KV groups"
    )


def _head_width(config: Configuration) -> int:
    text = config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
