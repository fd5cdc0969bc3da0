"""Removals: structured patterns with the share of parts to remove, and the rounding of the rest."""

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
class Removal:
    """A structured pattern, and the share of its parts to remove from every block or from the model."""

    kind: str
    sparsity: float  # 0 if the pattern has no share
    target: VocabularyTarget | None = None  # for tokens: the coverage or number to keep

    def __str__(self) -> str:
        return f"{self.kind}:{self.sparsity:g}"


@dataclass(frozen=True)
class Rounding:
    """Rounds the number of kept units to a multiple, for patterns whose kernels want multiples."""

    to: int | None = None  # None: by the width (`default_rounding`)
    nearest: bool = False  # as AMD Quark does; otherwise up, so that no more leaves than requested

    @property
    def name(self) -> str:
        """Return the value of --round."""
        return "nearest" if self.nearest else "down"

    def kept(self, removal: Removal, axis: Axis, *, rounds: bool) -> int:
        """Return the number of units that a block keeps; rounds: whether kernels want multiples of them.

        Raises UsageError if no unit would stay, or if the step is too wide.
        """
        step = (self.to or default_rounding(axis.units)) if rounds else 1
        return kept_units(axis.units, removal.sparsity, step, nearest=self.nearest)


DOWN = Rounding()


def spelled(removals: Sequence[Removal]) -> str:
    """Return the removals as manifests spell them: channels:0.1+kv-groups:0.125."""
    return "+".join(map(str, removals))


def check_distinct(removal: Removal, axes: Sequence[Axis], before: Container[str]) -> None:
    """Raise UsageError if another pattern already removes units of these kinds: the second cut would find other units."""
    if any(axis.kind in before for axis in axes):
        raise UsageError(
            f"--pattern {removal.kind} and another pattern both remove {axes[0].kind}: give one of them, then the other for the "
            "pruned model"
        )
