"""What `--pattern channels`, `kv-groups` and `blocks` ask for: parts of a model that leave whole, so that it becomes smaller."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from langprune_cli.errors import LangpruneError, UsageError

StructureKind = Literal["channels", "kv-groups", "blocks"]
STRUCTURES: tuple[StructureKind, ...] = get_args(StructureKind)
DEFAULT_SHARE = 0.1  # as AMD Quark removes


@dataclass(frozen=True)
class Structure:
    """One kind of part, and the share of its parts that leaves every block (or the model, where blocks leave)."""

    kind: StructureKind
    sparsity: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.sparsity:g}"


def parse_structures(patterns: Sequence[str], sparsity: float | None) -> tuple[Structure, ...]:
    """Read `channels`, `kv-groups:0.125`, ...; empty where the one pattern given is of single weights.

    A share behind a colon goes before `sparsity`, and that before 0.1.
    Raises UsageError for patterns that do not go together, LangpruneError for shares out of range.
    """
    kinds = [text.partition(":")[0] for text in patterns]
    structured = [kind for kind in kinds if kind in STRUCTURES]
    if not structured:
        if len(patterns) > 1:
            raise UsageError(
                f"--pattern was given {len(patterns)} times, which only {', '.join(STRUCTURES)} may be: give one of "
                f"{', '.join(patterns)}"
            )
        return ()
    if len(structured) < len(kinds):
        others = ", ".join(text for text, kind in zip(patterns, kinds, strict=True) if kind not in STRUCTURES)
        raise UsageError(
            f"--pattern {others} does not go with {', '.join(structured)} in one command: make the smaller model first, then "
            "prune that (--model NAME)"
        )
    if len(set(kinds)) < len(kinds):
        raise UsageError(f"--pattern {', '.join(patterns)} names a kind twice: give each once")
    found = [_structure(text, sparsity) for text in patterns]
    return tuple(sorted(found, key=lambda each: STRUCTURES.index(each.kind)))


def _structure(text: str, sparsity: float | None) -> Structure:
    name, colon, share = text.partition(":")
    try:
        value = float(share) if colon else DEFAULT_SHARE if sparsity is None else sparsity
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        given = f"--pattern {text}" if colon else f"--sparsity {sparsity:g}"
        raise LangpruneError(f"{given} is not a share between 0 and 1 that leaves: give 0.1 for a tenth")
    kind = next(each for each in STRUCTURES if each == name)
    return Structure(kind, value)


def spelled(structures: Sequence[Structure]) -> str:
    """Return the structures as manifests have them: channels:0.1+kv-groups:0.125."""
    return "+".join(map(str, structures))


def is_structured(pattern: str) -> bool:
    """Return whether a manifest's pattern is one of parts that leave whole."""
    return pattern.partition(":")[0] in STRUCTURES
