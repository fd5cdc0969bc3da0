"""One input site: the linears that read the same tensor, and what calibration knows of that tensor."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from langprune_cli.defaults import DAMPING
from langprune_cli.numerics.factor import Factor, damped_factor

Needs = Literal["nothing", "norms", "hessian"]  # what calibration must have collected for a method, an update, ...
_NEEDS: tuple[Needs, ...] = ("nothing", "norms", "hessian")


def most_needed(*needs: Needs) -> Needs:
    """Return what serves all of several needs: Hessians come with norms."""
    return max(needs, key=_NEEDS.index)


@dataclass(frozen=True)
class SiteStats:
    """Statistics of the tensor that a linear reads: sums over all tokens of all windows."""

    sum_sq: Tensor  # float64 [i]
    sum_x: Tensor  # float64 [i]
    tokens: int
    windows: int
    hessian: Tensor | None = None  # float32 [i, i], symmetric, sum of x xᵀ; None where only norms were collected

    def to(self, device: torch.device) -> "SiteStats":
        """Return the same statistics on `device`."""
        hessian = None if self.hessian is None else self.hessian.to(device)
        return replace(self, sum_sq=self.sum_sq.to(device), sum_x=self.sum_x.to(device), hessian=hessian)


@dataclass(frozen=True)
class Site:
    """Linears that share a site, their rows stacked: what one call of a solver sees."""

    weight: Tensor  # float32 [r, i], the dense weights
    rows: tuple[int, ...]  # of each linear, r in all
    stats: SiteStats | None  # None for methods that look at weights alone
    damping: float = DAMPING  # share of the mean diagonal that is added to the Hessian's

    @property
    def norms(self) -> SiteStats:
        """Return the statistics; raises ValueError where a method that needs some was called without."""
        if self.stats is None:
            raise ValueError("this method needs column norms")
        return self.stats

    @property
    def hessian(self) -> Tensor:
        """Return the Hessian [i, i]; raises ValueError where a method that needs one was called without."""
        if self.norms.hessian is None:
            raise ValueError("this method needs a Hessian")
        return self.norms.hessian

    @cached_property
    def factor(self) -> Factor:
        """Return the factor of the damped Hessian, made once for all that need it."""
        return damped_factor(self.hessian, self.damping)

    @property
    def damping_used(self) -> float | None:
        """Return the damping that the factorisation took, None where there was none."""
        return self.factor.damping if "factor" in vars(self) else None

    def part(self, rows: slice) -> "Site":
        """Return the site with some of its rows, as one linear's."""
        weight = self.weight[rows]
        return replace(self, weight=weight, rows=(len(weight),))

    def split(self, stacked: Tensor) -> tuple[Tensor, ...]:
        """Return each linear's rows of a tensor [r, ...]."""
        return torch.split(stacked, list(self.rows))


@dataclass(frozen=True)
class Solution:
    """What a solver makes of a site."""

    keep: Tensor  # bool [r, i]
    weight: Tensor  # float32 [r, i], +0.0 where `keep` is False
    # float64 [r], squared error of what each row puts out, summed over the calibration text; None: the solver does not know
    error: Tensor | None = None

    def part(self, rows: slice) -> "Solution":
        """Return some rows of it."""
        return Solution(self.keep[rows], self.weight[rows], None if self.error is None else self.error[rows])
