"""What a structured pattern is: a record, one file each; this module describes and finds them.

Records are read by the command line, so that nothing here or in their files imports torch but inside of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import langprune_cli.structured_patterns as package
from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.numerics.pattern_names import is_structured, unknown
from langprune_cli.registry import records
from langprune_cli.stages.structured.removals import DEFAULT_SHARE, Removal

if TYPE_CHECKING:  # see above
    from langprune_cli.depth_methods.method import DepthMethod
    from langprune_cli.expert_methods.method import ExpertMethod
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

    Show = Callable[[VocabularyChoice], None]


UNCHANGED = "Embeddings, norms and head are unchanged."


def _no_words(_params: Params) -> list[str]:
    return []


def _nothing_more(_update: str) -> list[str]:
    return []


@dataclass(frozen=True)
class Units:
    """Of a pattern that removes equally many units of every block: where they lie. Their masks are columns of linears."""

    axes: Callable[
        [Configuration], tuple[Axis, ...]
    ]  # of a configuration; raises LangpruneError for a family that has none
    rounds: bool = False  # whether --round-to and --round are for it: kernels want multiples


@dataclass(frozen=True)
class Whole:
    """Of a pattern that is chosen once for the whole model: what a mask cuts. `Judged` and `Counted` say how it is chosen."""

    cut: Callable[[OpenedModel, Masks], Cut]  # what a mask takes from the model


@dataclass(frozen=True)
class Judged(Whole):
    """Chosen by methods that look at the model and windows of text; no statistics are needed."""

    choosing: Callable[[OpenedModel, JudgedOn, Removal, str, Reporter], Choosing]  # the string is the method's name


@dataclass(frozen=True)
class Counted(Whole):
    """Chosen by counts of tokens."""

    choosing: Callable[[OpenedModel, Artifact, Removal, Show], Choosing]  # shows the choice before it is written


@dataclass(frozen=True)
class StructuredPattern:
    """One kind of part that leaves a model whole, so that the model becomes smaller."""

    name: str  # as --pattern has it
    parts: str  # what leaves, in messages: "whole blocks"
    place: int  # among several patterns of one command, as they are listed; `prune` removes the last first
    leaves: Units | Judged | Counted
    plan: Callable[[Sketch, Removal, Rounding], Sketch]  # what `plan` says of it, from a configuration alone
    method: str = ""  # where --method says nothing; "": it is not chosen by methods
    methods: Callable[[], Mapping[str, UnitMethod | DepthMethod | ExpertMethod]] = (
        dict  # the values of --method, by name
    )
    share: bool = True  # whether a share may follow its name, as in channels:0.1
    touches_blocks: bool = True  # else there is nothing to update or to tune, and no window goes through the model
    trims_tokenizer: bool = False
    unchanged: str = UNCHANGED  # what a model card says of the rest
    advice: Callable[[str], list[str]] = _nothing_more  # update -> what else would help a ruined model
    words: Callable[[Params], list[str]] = _no_words  # a mask's parameters -> options of this pattern's own

    @property
    def units(self) -> Units | None:
        """Return where its units lie, None where it is chosen for the whole model."""
        return self.leaves if isinstance(self.leaves, Units) else None

    @property
    def whole(self) -> Judged | Counted | None:
        """Return how it is chosen for the whole model, None where units leave every block."""
        return None if isinstance(self.leaves, Units) else self.leaves

    def check_method(self, name: str) -> str:
        """Return the name of a method of this pattern; raises LangpruneError with the nearest names for another."""
        if name not in (known := self.methods()):
            raise LangpruneError(f"{name!r} is no method for --pattern {self.name}: {near_matches(name, known)}")
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
    """Return the pattern of units that `axes` finds, chosen by a unit method; methods: others than those of all units."""

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
    """Return every structured pattern by name, in the order of their places: a module with a PATTERN record is one."""
    found = records(package, StructuredPattern).values()
    return {each.name: each for each in sorted(found, key=lambda each: each.place)}


def get_pattern(text: str) -> StructuredPattern:
    """Return the pattern of `channels` or `channels:0.1`; raises UsageError where there is none."""
    found = patterns_of(text)
    if len(found) != 1:
        raise unknown(text)
    return found[0]


def patterns_of(text: str) -> tuple[StructuredPattern, ...]:
    """Return the patterns of a mask, as its manifest spells them (channels:0.1+kv-groups:0.125); none for single weights."""
    known = structured_patterns()
    names = [each.partition(":")[0] for each in text.split("+")]
    return tuple(known[name] for name in names) if all(name in known for name in names) else ()


def whole_pattern(text: str) -> StructuredPattern | None:
    """Return the pattern of a mask that was chosen for the whole model, and has no bits of single linears; else None."""
    return next((each for each in patterns_of(text) if each.whole), None)


def split_patterns(patterns: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the patterns of parts that leave whole, and the one of single weights, if any; raises UsageError for two."""
    single = [text for text in patterns if not is_structured(text)]
    if len(single) > 1:
        raise UsageError(f"--pattern {' and --pattern '.join(single)} are both about single weights: give one of them")
    return [text for text in patterns if is_structured(text)], single[0] if single else None


def parse_removals(patterns: Sequence[str], sparsity: float | None) -> tuple[Removal, ...]:
    """Read `channels`, `kv-groups:0.125`, ...: where there is no share behind a colon it is `sparsity`, else 0.1.

    Raises UsageError for what cannot be read, a kind that comes twice and a `sparsity` of no use, LangpruneError for shares
    out of range.
    """
    found = [_removal(text, sparsity) for text in patterns]
    kinds = [each.kind for each in found]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise UsageError(f"--pattern {twice} is given twice: give one share for it")
    if found and sparsity is not None and all(":" in text for text in patterns):
        raise UsageError(f"--sparsity {sparsity:g} has no use where every --pattern has its share: leave it out")
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
        raise UsageError(f"--pattern {text!r} has no share after its colon: write {kind}:0.1") from error
    if not 0 < value < 1:
        raise LangpruneError(f"{value:g} is not a fraction of {kind} that can leave: give 0.1 for a tenth")
    return Removal(kind, value)


def check_rounding(removals: Sequence[Removal], message: Callable[[str], str], *, given: bool) -> None:
    """Raise UsageError where a rounding is given and no pattern's units are rounded. message: of the patterns' names."""
    rounded = [each.name for each in structured_patterns().values() if each.units and each.units.rounds]
    if given and not any(each.kind in rounded for each in removals):
        raise UsageError(message(" or ".join(rounded)))


def method_of(removals: Sequence[Removal], name: str | None) -> str:
    """Return the method that chooses what leaves by these patterns together: the one named, else the first one's own.

    Raises LangpruneError for a name that one of them does not have.
    """
    patterns = [get_pattern(each.kind) for each in removals]
    chosen = name or patterns[0].method
    for each in patterns:
        each.check_method(chosen)
    return chosen


def unit_axes(text: str, config: Configuration, kinds: Sequence[str]) -> tuple[Axis, ...]:
    """Return the axes of these kinds that a mask's patterns have in a model of this configuration."""
    units = [each.units for each in patterns_of(text) if each.units]
    return tuple(axis for each in units for axis in each.axes(config) if axis.kind in kinds)


def own_method(params: Params) -> UnitMethod | DepthMethod | ExpertMethod | None:
    """Return the method that a structured mask with these parameters was chosen by, None for one that is not known here."""
    found = [method for each in patterns_of(params["pattern"]) if (method := each.methods().get(params["method"]))]
    return found[0] if found else None


def need_bits(what: str, mask: Artifact) -> None:
    """Raise LangpruneError when `what` ("compare") is given a mask that was chosen for the whole model: it has no bits."""
    if whole := whole_pattern(mask.manifest.params["pattern"]):
        raise LangpruneError(
            f"mask {mask.name} is of {whole.parts}, and {what} looks at single weights: name masks of weights or channels"
        )
