"""What is asked of a structured pattern: the share of a model's parts that leaves, and how what stays is rounded."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.models.families import Axis, default_rounding, kept_units

if TYPE_CHECKING:  # the command line reads patterns before numpy and torch are imported
    from langprune_cli.tokens.choice import VocabularyTarget

DEFAULT_SHARE = 0.1  # as AMD Quark removes


@dataclass(frozen=True)
class Structure:
    """One structured pattern, by its name, and the share of its parts that leaves every block, or the model."""

    kind: str
    sparsity: float  # 0 where the pattern has no share
    target: VocabularyTarget | None = None  # of tokens: which are to stay, or how many

    def __str__(self) -> str:
        return f"{self.kind}:{self.sparsity:g}"


@dataclass(frozen=True)
class Rounding:
    """What multiples of units stay, where a pattern's are rounded."""

    to: int | None = None  # None: what suits the width (`default_rounding`)
    nearest: bool = False  # to the nearest multiple, as AMD Quark does; else never more is removed than asked

    @property
    def name(self) -> str:
        """Return what --round says for it."""
        return "nearest" if self.nearest else "down"

    @property
    def given(self) -> bool:
        """Return whether it is another than what is taken where nothing is said."""
        return self != DOWN

    def kept(self, structure: Structure, axis: Axis, *, rounds: bool) -> int:
        """Return how many of a block's units stay; rounds: whether kernels want multiples of them.

        Raises UsageError where none would, or for a step that is too wide.
        """
        step = (self.to or default_rounding(axis.units)) if rounds else 1
        return kept_units(axis.units, structure.sparsity, step, nearest=self.nearest)


DOWN = Rounding()


def spelled(structures: Sequence[Structure]) -> str:
    """Return the structures as manifests have them: channels:0.1+kv-groups:0.125."""
    return "+".join(map(str, structures))


def check_distinct(structure: Structure, axes: Sequence[Axis], before: Container[str]) -> None:
    """Raise UsageError where units of these kinds leave by another pattern too: each cut would be of units that are gone."""
    if any(axis.kind in before for axis in axes):
        raise UsageError(
            f"--pattern {structure.kind} and another one both remove {axes[0].kind}: give one of them, then the other for the "
            "model that comes out"
        )
