"""Keeps what is above a threshold, and what N:M keeps of each group: fast, and without exact counts among equals."""

import torch
from torch import Tensor

from langprune_cli.numerics.patterns import SMALL_GROUP, Pattern, kth_lowest, prune_count
from langprune_cli.numerics.values import kept


class Thresholds:
    """The step of a solver that removes a share of what a pattern removes, while the solver works its way there.

    With N:M, columns are in another `order`: the first members of all groups, then all second ones, and so on. So groups are
    compared along rows, in a tenth of the time of comparing neighbours.
    """

    def __init__(self, pattern: Pattern, columns: int, device: torch.device) -> None:
        """Prepare for linears with so many columns."""
        self._pattern = pattern
        self._members = pattern.m or 1
        self._whole = columns - pattern.tail(columns)  # columns in groups; the rest of N:M is kept
        groups = torch.arange(self._whole, device=device).view(-1, self._members)
        rest = torch.arange(self._whole, columns, device=device)
        self.order = torch.cat([groups.t().flatten(), rest])  # int64 [i]

    def of(
        self,
        score: Tensor,  # float32 [o, i], not negative, columns in `order`
        share: float,  # 0..1 of what the pattern removes
    ) -> Tensor:  # [1, 1]
        """Return the highest score that goes where only the lowest share of what the pattern removes does; below all for none."""
        going = score[:, : self._whole]
        count = going.numel()
        if self._pattern.keep_of:
            groups = self._groups(score)
            going = torch.where(groups > self._bound(groups)[:, None], torch.inf, groups)
            count = going.numel() * self._removed // self._members
        else:
            share *= self._pattern.sparsity
        count = prune_count(count, share)
        return kth_lowest(going.reshape(1, -1), count) if count else score.new_full((1, 1), -1.0)

    def kept(
        self,
        values: Tensor,  # float32 [o, i], columns in `order`
        least: Tensor,  # [o, 1], from `of`
    ) -> Tensor:  # float32 [o, i]
        """Return the values that are above `least` or that N:M keeps, and 0 for the others."""
        size = values.abs()
        if not self._pattern.keep_of:
            return kept(values, size > least)
        groups, keep = self._groups(size), torch.ones_like(values, dtype=torch.bool)
        torch.gt(groups, torch.minimum(self._bound(groups), least)[:, None], out=self._groups(keep))
        return kept(values, keep)

    @property
    def _removed(self) -> int:
        """Return how many members of a group the pattern removes."""
        return self._members - (self._pattern.keep_of or (1, 1))[0]

    def _groups(self, score: Tensor) -> Tensor:  # [o, i] -> [o, m, g]
        return score[:, : self._whole].view(len(score), self._members, -1)

    def _bound(self, groups: Tensor) -> Tensor:  # [o, m, g] -> [o, g]
        """Return the highest value of each group that goes; small groups take as many turns of finding the lowest left."""
        if self._members > SMALL_GROUP:
            return kth_lowest(groups.mT.reshape(-1, self._members), self._removed).view(len(groups), -1)
        rest = list(groups.unbind(1))
        lowest = rest[0]
        for turn in range(self._removed):
            lowest, *others = rest
            for place, other in enumerate(others):
                if turn + 1 < self._removed:  # the last turn's rest is not needed
                    others[place] = torch.maximum(lowest, other)
                lowest = torch.minimum(lowest, other)
            rest = others
        return lowest
