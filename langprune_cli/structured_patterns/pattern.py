"""Describes structured patterns, one record a file, and finds them.

The command line reads these records, so this module and theirs import torch only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import langprune_cli.structured_patterns as package
from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.numerics.pattern_names import is_structured, unknown
from langprune_cli.registry import records
from langprune_cli.stages.structured.removals import DEFAULT_SHARE, Removal

if TYPE_CHECKING:  # see above
    from langprune_cli.depth_methods.method import DepthMethod
    from langprune_cli.expert_methods.method import ExpertMethod
    from langprune_cli.hidden_methods.method import HiddenMethod
    from langprune_cli.models.families import Axis
    from langprune_cli.models.protocols import Configuration
    from langprune_cli.records import Params
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.cut import Cut, Masks
    from langprune_cli.stages.structured.judged_on import JudgedOn
    from langprune_cli.stages.structured.removals import Rounding
    from langprune_cli.stages.structured.sketch import Sketch
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Reporter
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.tokens.choice import VocabularyChoice
    from langprune_cli.unit_methods.method import UnitMethod

    AnyMethod: TypeAlias = UnitMethod | DepthMethod | ExpertMethod | HiddenMethod
    Show = Callable[[VocabularyChoice], None]


UNCHANGED = "Embeddings, norms and head are unchanged."


def _no_words(_params: Params) -> list[str]:
    return []


def _nothing_more(_update: str) -> list[str]:
    return []


@dataclass(frozen=True)
class Units:
    """The units of a pattern that removes equally many of every block; their masks are columns of linears."""

    axes: Callable[
        [Configuration], tuple[Axis, ...]
    ]  # configuration -> axes; raises LangpruneError for a family without such units
    rounds: bool = False  # whether --round-to applies: kernels want multiples


@dataclass(frozen=True)
class Whole:
    """A pattern whose parts are chosen once for the whole model, by `Judged` or `Counted`."""

    cut: Callable[[OpenedModel, Masks], Cut]  # removes a mask's parts from the model


@dataclass(frozen=True)
class Judged(Whole):
    """Chosen by methods that run windows of text through the model; they need no statistics."""

    choosing: Callable[[OpenedModel, JudgedOn, Removal, str, Reporter], Choosing]  # the string is the method's name


@dataclass(frozen=True)
class Counted(Whole):
    """Chosen by counts of tokens."""

    choosing: Callable[[OpenedModel, Artifact, Removal, Show], Choosing]  # shows the choice before writing it


@dataclass(frozen=True)
class StructuredPattern:
    """One kind of part that leaves a model whole, which makes the model smaller."""

    name: str  # the value of --pattern
    parts: str  # the parts in messages: "whole blocks"
    place: int  # order among several patterns of one command; `prune` removes the last first
    leaves: Units | Judged | Counted
    plan: Callable[[Sketch, Removal, Rounding], Sketch]  # the smaller model, from a configuration alone
    method: str = ""  # the default of --method; "": no method chooses these parts
    methods: Callable[[], Mapping[str, AnyMethod]] = dict  # the values of --method, by name
    share: bool = True  # whether a share may follow the name, as in channels:0.1
    touches_blocks: bool = True  # otherwise nothing needs an update or tuning, and no window goes through the model
    keeps_stream: bool = (
        True  # whether hidden states stay comparable to the dense model's, as tuning by blocks needs them
    )
    trims_tokenizer: bool = False
    unchanged: str = UNCHANGED  # the model card's sentence on the rest
    advice: Callable[[str], list[str]] = _nothing_more  # update -> further advice for a ruined model
    words: Callable[[Params], list[str]] = _no_words  # a mask's parameters -> this pattern's own options

    @property
    def units(self) -> Units | None:
        """Return the pattern's units, None if it is chosen for the whole model."""
        return self.leaves if isinstance(self.leaves, Units) else None

    @property
    def whole(self) -> Judged | Counted | None:
        """Return the choice for the whole model, None if units leave every block."""
        return None if isinstance(self.leaves, Units) else self.leaves

    def check_method(self, name: str) -> str:
        """Return the name if this pattern has such a method; raises LangpruneError with the nearest names otherwise."""
        if name not in (known := self.methods()):
            raise LangpruneError(f"--pattern {self.name} has no method {name!r}: {near_matches(name, known)}")
        return name


def of_units(
    name: str,
    place: int,
    axes: Callable[[Configuration], tuple[Axis, ...]],
    *,
    rounds: bool = False,
    method: str = "osscar",
    methods: Callable[[], Mapping[str, UnitMethod]] | None = None,
) -> StructuredPattern:
    """Return a pattern of the units that `axes` finds; methods: choose them instead of the unit methods."""

    def plan(sketch: Sketch, removal: Removal, rounding: Rounding) -> Sketch:
        from langprune_cli.stages.structured.sketch import without_units  # noqa: PLC0415

        return without_units(sketch, removal, rounding, axes(sketch.config), rounds=rounds)

    return StructuredPattern(
        name,
        name,
        place,
        Units(axes, rounds),
        plan,
        method=method,
        methods=methods or _unit_methods,
        advice=lambda update: ["--update least-squares"] if update.startswith(("none", "tune")) else [],
    )


def _unit_methods() -> Mapping[str, UnitMethod]:
    from langprune_cli.unit_methods.method import unit_methods  # noqa: PLC0415

    return unit_methods()


def structured_patterns() -> dict[str, StructuredPattern]:
    """Return all structured patterns by name, in order of `place`: each module with a PATTERN record."""
    found = records(package, StructuredPattern).values()
    return {each.name: each for each in sorted(found, key=lambda each: each.place)}


def get_pattern(text: str) -> StructuredPattern:
    """Return the pattern of `channels` or `channels:0.1`; raises UsageError for an unknown name."""
    found = patterns_of(text)
    if len(found) != 1:
        raise unknown(text)
    return found[0]


def patterns_of(text: str) -> tuple[StructuredPattern, ...]:
    """Return the patterns that a manifest spells (channels:0.1+kv-groups:0.125); none for single weights."""
    known = structured_patterns()
    names = [each.partition(":")[0] for each in text.split("+")]
    return tuple(known[name] for name in names) if all(name in known for name in names) else ()


def whole_pattern(text: str) -> StructuredPattern | None:
    """Return the pattern of a mask chosen for the whole model, which has no bits for linears; None for other masks."""
    return next((each for each in patterns_of(text) if each.whole), None)


def split_patterns(patterns: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the structured patterns, and the pattern of single weights if given; raises UsageError for two of the latter."""
    single = [text for text in patterns if not is_structured(text)]
    if len(single) > 1:
        raise UsageError(f"--pattern {' and --pattern '.join(single)} both prune single weights: give one of them")
    return [text for text in patterns if is_structured(text)], single[0] if single else None


def parse_removals(patterns: Sequence[str], sparsity: float | None) -> tuple[Removal, ...]:
    """Read `channels`, `kv-groups:0.125`, ...: the share without a colon is `sparsity`, by default 0.1.

    Raises UsageError for unknown spellings, a repeated kind and a `sparsity` without effect, LangpruneError for shares out of
    range.
    """
    found = [_removal(text, sparsity) for text in patterns]
    kinds = [each.kind for each in found]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise UsageError(f"--pattern {twice} is given twice: give one share for it")
    if found and sparsity is not None and all(":" in text for text in patterns):
        raise UsageError(
            f"--sparsity {sparsity:g} has no effect, since every --pattern has its own share: leave it out"
        )
    return tuple(sorted(found, key=lambda each: get_pattern(each.kind).place))


def _removal(text: str, sparsity: float | None) -> Removal:
    pattern = get_pattern(text)
    kind, colon, share = text.partition(":")
    if not pattern.share:
        if colon:
            raise unknown(text)
        return Removal(kind, 0.0)
    try:
        value = float(share) if colon else DEFAULT_SHARE if sparsity is None else sparsity
    except ValueError as error:
        raise UsageError(f"--pattern {text!r} needs a number after the colon: write {kind}:0.1") from error
    if not 0 < value < 1:
        raise LangpruneError(f"{value:g} is not a fraction of {kind} to remove: give 0.1 for a tenth")
    return Removal(kind, value)


def check_rounding(removals: Sequence[Removal], to: int | None, *, nearest: bool) -> None:
    """Raise UsageError if a rounding is given, and no pattern that it is for."""
    units = {name: each.units for name, each in structured_patterns().items() if each.units}
    steps = [name for name, each in units.items() if each.rounds]
    for given, option, known in ((to, f"--round-to {to}", steps), (nearest, "--round nearest", list(units))):
        if given and not any(each.kind in known for each in removals):
            raise UsageError(
                f"{option} is for {' or '.join(known)}: add --pattern {' or '.join(known)}, or leave it out"
            )


def method_of(removals: Sequence[Removal], name: str | None) -> str:
    """Return the method that serves all these patterns: the named one, else the first pattern's default.

    Raises LangpruneError if a pattern lacks the named method.
    """
    patterns = [get_pattern(each.kind) for each in removals]
    chosen = name or patterns[0].method
    for each in patterns:
        each.check_method(chosen)
    return chosen


def unit_axes(text: str, config: Configuration, kinds: Sequence[str]) -> tuple[Axis, ...]:
    """Return the axes of these kinds, for the patterns of a mask and a configuration."""
    units = [each.units for each in patterns_of(text) if each.units]
    return tuple(axis for each in units for axis in each.axes(config) if axis.kind in kinds)


def own_method(params: Params) -> AnyMethod | None:
    """Return the method behind a structured mask with these parameters, None if it is unknown."""
    found = [method for each in patterns_of(params["pattern"]) if (method := each.methods().get(params["method"]))]
    return found[0] if found else None


def check_tunable(patterns: Iterable[StructuredPattern]) -> None:
    """Raise UsageError if a pattern leaves hidden states that cannot be compared with the dense model's."""
    for each in patterns:
        if not each.keeps_stream:
            raise UsageError(
                f"--tune compares hidden states with those of the dense model, and --pattern {each.name} gives them other "
                "coordinates: leave it out, or train end to end with --recover"
            )


def need_bits(what: str, mask: Artifact) -> None:
    """Raise LangpruneError if `what` ("compare") gets a mask chosen for the whole model, which has no bits."""
    if whole := whole_pattern(mask.manifest.params["pattern"]):
        raise LangpruneError(
            f"mask {mask.name} removes {whole.parts}, and {what} compares weights: name masks of weights or channels"
        )
