"""What `--pattern channels`, `kv-groups` and `blocks` ask for: parts of a model that leave whole, so that it becomes smaller."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.families import Axis, default_rounding, kept_units

StructureKind = Literal["channels", "kv-groups", "blocks"]
STRUCTURES: tuple[StructureKind, ...] = get_args(StructureKind)
VOCABULARY = "vocab"  # tokens leave, by how often each occurs; it has no share
DEFAULT_SHARE = 0.1  # as AMD Quark removes


@dataclass(frozen=True)
class Structure:
    """One kind of part, and the share of its parts that leaves every block (or the model, where blocks leave)."""

    kind: StructureKind
    sparsity: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.sparsity:g}"


@dataclass(frozen=True)
class Rounding:
    """What multiples of channels stay."""

    to: int | None = None  # None: what suits the width (`default_rounding`)
    nearest: bool = False  # to the nearest multiple, as AMD Quark does; else never more is removed than asked

    @property
    def name(self) -> str:
        """Return what --round says for it."""
        return "nearest" if self.nearest else "down"

    def kept(self, structure: Structure, axis: Axis) -> int:
        """Return how many of a block's units stay; raises UsageError where none would, or for a step that is too wide."""
        step = (None if axis.kind == "kv-groups" else self.to) or default_rounding(axis.kind, axis.units)
        return kept_units(axis.units, structure.sparsity, step, nearest=self.nearest)


DOWN = Rounding()


def split_patterns(patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the patterns of parts that leave whole, and those of single weights."""
    structured = [text for text in patterns if is_structured(text)]
    return structured, [text for text in patterns if not is_structured(text)]


def parse_structures(patterns: Sequence[str], sparsity: float | None) -> tuple[Structure, ...]:
    """Read `channels`, `kv-groups:0.125`, ...: where there is no share behind a colon it is `sparsity`, else 0.1.

    Raises UsageError for what cannot be read, a kind that comes twice and a `sparsity` of no use, LangpruneError for shares
    out of range.
    """
    found = [_structure(text, sparsity) for text in patterns]
    kinds = [each.kind for each in found]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise UsageError(f"--pattern {twice} is given twice: give one share for it")
    if found and sparsity is not None and all(":" in text for text in patterns):
        raise UsageError(f"--sparsity {sparsity:g} has no use where every --pattern has its share: leave it out")
    return tuple(sorted(found, key=lambda each: STRUCTURES.index(each.kind)))


def _structure(text: str, sparsity: float | None) -> Structure:
    name, colon, share = text.partition(":")
    kind = next(each for each in STRUCTURES if each == name)
    try:
        value = float(share) if colon else DEFAULT_SHARE if sparsity is None else sparsity
    except ValueError as error:
        raise UsageError(f"--pattern {text!r} has no share after its colon: write {kind}:0.1") from error
    if not 0 < value < 1:
        raise LangpruneError(f"{value:g} is not a fraction of {kind} that can leave: give 0.1 for a tenth")
    return Structure(kind, value)


def spelled(structures: Sequence[Structure]) -> str:
    """Return the structures as manifests have them: channels:0.1+kv-groups:0.125."""
    return "+".join(map(str, structures))


def is_structured(pattern: str) -> bool:
    """Return whether a pattern is one of parts that leave whole."""
    return pattern == VOCABULARY or pattern.partition(":")[0] in STRUCTURES
