"""Units: channels or kv-groups, each of them some consecutive input columns of the linear that reads it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.numerics.site import Site


@dataclass(frozen=True)
class UnitSite:
    """The linear that reads the units of an axis, and the weights that write them."""

    site: Site  # the reader: weight float32 [o, units * size], and statistics of its input
    size: int  # input columns per unit, consecutive
    writers: tuple[Tensor, ...] = ()  # float32 [units, *]: what writes each unit, flattened per unit

    def __post_init__(self) -> None:
        columns = self.site.weight.shape[1]
        if self.size < 1 or columns % self.size:
            raise ValueError(f"{columns} input columns are no whole number of units of {self.size}")

    @property
    def units(self) -> int:
        """Return the number of units before pruning."""
        return self.site.weight.shape[1] // self.size

    def columns(
        self,
        keep: Tensor,  # bool [units]
    ) -> Tensor:  # bool [units * size]
        """Return the input columns of the kept units."""
        return keep.repeat_interleave(self.size)

    def summed(
        self,
        columns: Tensor,  # [units * size], a figure for each input column
    ) -> Tensor:  # [units]
        """Return the sum of each unit's columns."""
        return columns.view(self.units, self.size).sum(dim=1)

    def check_stay(self, stay: int) -> None:
        """Raise ValueError if `stay` is negative or more than the number of units."""
        if not 0 <= stay <= self.units:
            raise ValueError(f"{stay} of {self.units} units cannot stay")


def highest(
    score: Tensor,  # [units], higher = keep
    stay: int,
) -> Tensor:  # bool [units]
    """Return the units with the `stay` highest scores, exactly that many; of ties the earlier is pruned first."""
    keep = torch.ones_like(score, dtype=torch.bool)
    keep[score.sort(stable=True).indices[: len(score) - stay]] = False
    return keep
