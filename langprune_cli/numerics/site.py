"""One input site: the linears that read the same tensor, and the statistics of that tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from langprune_cli.defaults import DAMPING
from langprune_cli.numerics.factor import Factor, damped_factor

Statistics = Literal["norms", "hessian"]  # Hessians come with the norms, never without
Needs = Literal["nothing"] | Statistics  # the statistics that a method, an update, ... reads
_NEEDS: tuple[Needs, ...] = ("nothing", "norms", "hessian")


def most_needed(*needs: Needs) -> Needs:
    """Return the need that covers all given ones: Hessians include norms."""
    return max(needs, key=_NEEDS.index)


@dataclass(frozen=True)
class SiteStats:
    """Statistics of the tensor that a linear reads: sums over all tokens of all windows."""

    sum_sq: Tensor  # float64 [i]
    sum_x: Tensor  # float64 [i]
    tokens: int
    windows: int
    hessian: Tensor | None = None  # float32 [i, i], symmetric, sum of x xᵀ; None if only norms were collected

    def to(self, device: torch.device) -> "SiteStats":
        """Return the same statistics on `device`."""
        hessian = None if self.hessian is None else self.hessian.to(device)
        return replace(self, sum_sq=self.sum_sq.to(device), sum_x=self.sum_x.to(device), hessian=hessian)


@dataclass(frozen=True)
class Site:
    """The stacked rows of linears that share a site: the input of one solver call."""

    weight: Tensor  # float32 [r, i], the dense weights
    rows: tuple[int, ...]  # of each linear, r in all
    stats: SiteStats | None  # None for methods that look at weights alone
    damping: float = DAMPING  # share of the mean diagonal added to the Hessian's diagonal
    _factors: list[Factor] = field(default_factory=list, repr=False, compare=False)  # one, once it is computed

    @property
    def norms(self) -> SiteStats:
        """Return the statistics; raises ValueError if there are none."""
        if self.stats is None:
            raise ValueError("this method needs column norms")
        return self.stats

    @property
    def hessian(self) -> Tensor:
        """Return the Hessian [i, i]; raises ValueError if there is none."""
        if self.norms.hessian is None:
            raise ValueError("this method needs a Hessian")
        return self.norms.hessian

    @property
    def factor(self) -> Factor:
        """Return the factor of the damped Hessian, computed once."""
        if not self._factors:
            self._factors.append(damped_factor(self.hessian, self.damping))
        return self._factors[0]

    @property
    def damping_used(self) -> float | None:
        """Return the damping used by the factorisation, None without one."""
        return self._factors[0].damping if self._factors else None

    def part(self, rows: slice) -> "Site":
        """Return the site with only some of its rows, such as one linear's; both have one factor."""
        weight = self.weight[rows]
        return replace(self, weight=weight, rows=(len(weight),))

    def split(self, stacked: Tensor) -> tuple[Tensor, ...]:
        """Return each linear's rows of a tensor [r, ...]."""
        return torch.split(stacked, list(self.rows))


@dataclass(frozen=True)
class Solution:
    """A solver's result for a site."""

    keep: Tensor  # bool [r, i]
    weight: Tensor  # float32 [r, i], +0.0 where `keep` is False
    # float64 [r], squared output error of each row, summed over the calibration text; None if unknown
    error: Tensor | None = None

    def part(self, rows: slice) -> "Solution":
        """Return some of its rows."""
        return Solution(self.keep[rows], self.weight[rows], None if self.error is None else self.error[rows])


def joined(solutions: Sequence[Solution]) -> Solution:
    """Return one solution with the rows of several, in order; its errors are unknown if some are."""
    errors = [each.error for each in solutions if each.error is not None]
    return Solution(
        torch.cat([each.keep for each in solutions]),
        torch.cat([each.weight for each in solutions]),
        torch.cat(errors) if len(errors) == len(solutions) else None,
    )
