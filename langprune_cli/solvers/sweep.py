"""The OBS sweep: prune weights column by column, and compensate in the columns to the right (SparseGPT)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.machine.precision import in_steps, whole_inputs
from langprune_cli.numerics.factor import Factor
from langprune_cli.numerics.site import Solution

# Columns whose corrections are applied to the rest in one product, and columns within which each is applied at once. Both
# only group the same sums: 128 and 16 were fastest on two cores for 1024 to 5632 rows.
_BLOCK = 128
_STRIP = 16


@dataclass(frozen=True)
class ColumnChooser:
    """Chooses which weights to keep, `width` columns at a time, from their values after compensation from the left."""

    width: int
    choose: Callable[[Tensor, int], Tensor]  # (scores [r, c], first column) -> keep [r, c]; c <= width


def sweep(
    w: Tensor,  # float32 [r, i]
    factor: Factor,  # of the damped Hessian [i, i]
    keep: Tensor | ColumnChooser,  # bool [r, i], or a chooser that finds it on the way
) -> Solution:
    """Prune what `keep` does not hold, column by column, and compensate in the columns to the right.

    This is SparseGPT's algorithm 1 (arXiv 2301.00774) with its sums in another order. The paper pushes the error w_j / U_jj of
    each column to those on its right; here each column gathers what those on its left have lost, so the Hessian is only
    factored, not inverted. A chooser sees the scores w^2 / U_jj^2 of its columns after all corrections from the left. Sweeping
    with its mask gives the same weights bit by bit: the grouping of sums does not depend on who chose. Rows are independent, so
    linears that share H are swept in one call.

    A row's error follows from the difference between each column's loss and the best one: the sum of P_j (l_j - c_j)^2 is the
    damped error (`Factor`), from which the part of the damping is subtracted.
    """
    # Transposed, so that a column of w is one contiguous row for the inner loop.
    wt = w.t().clone(memory_format=torch.contiguous_format).add_(0.0)  # [i, r]; -0.0 becomes 0.0
    # Dense minus new; for columns not reached yet, the corrections from the blocks to their left.
    lost = torch.zeros_like(wt)
    if isinstance(keep, ColumnChooser):
        goes = torch.zeros(wt.shape, dtype=torch.bool, device=w.device)
    else:
        goes = keep.t().logical_not().contiguous()
    columns, lower = len(wt), factor.lower
    strip = _Strip.of(wt)
    error = torch.zeros(w.shape[0], dtype=torch.float64, device=w.device)
    # For one block, where float32 sums are accurate enough: the damped error, and the damping's part of it.
    damped, damping = torch.empty(2, w.shape[0], dtype=w.dtype, device=w.device)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        damped.zero_()
        damping.zero_()
        for left in range(start, end, _STRIP):
            right = min(left + _STRIP, end)
            if left > start:
                lost[left:right].addmm_(lower[left:right, start:left], lost[start:left], alpha=-1)
            strip.load(wt, lost, goes, lower, slice(left, right))
            for j in range(left, right):
                if isinstance(keep, ColumnChooser) and j % keep.width == 0:
                    stop = min(j + keep.width, columns)
                    reached = wt[j:stop] - _ahead(lost, lower, strip, (start, left, right, j), stop)
                    scores = reached.square_().mul_(factor.pivots[j:stop, None])
                    goes[j:stop] = keep.choose(scores.t(), j).t().logical_not()
                    split = min(stop, right)
                    strip.going[j - left : split - left] = goes[j:split]
                strip.settle(j - left)
            strip.store(lost[left:right])
            damped.addmv_(strip.missed(right - left).square_().t(), factor.pivots[left:right])
            damping.addmv_(torch.square(lost[left:right]).t(), factor.added[left:right])
        error += damped
        error -= damping
        with whole_inputs(w.device):
            for ahead in in_steps(end, columns, w.device):
                lost[ahead].addmm_(lower[ahead, start:end], lost[start:end], alpha=-1)
    wt.sub_(lost)  # a pruned weight has lost all of itself: the difference is +0.0
    del lost, strip
    return Solution(goes.t().logical_not().contiguous(), wt.t().contiguous(), error.clamp_(min=0.0))


@dataclass(frozen=True)
class _Strip:
    """Copies of a few columns, in which each correction is applied at once.

    All strips use the same memory, so the inner loop's slices are made once: slicing takes longer than the arithmetic on a
    thousand rows.
    """

    dense: Tensor  # [_STRIP, r]
    best: Tensor  # [_STRIP, r], the best loss; for columns not settled yet, given the columns left of the strip
    lost: Tensor  # [_STRIP, r]
    going: Tensor  # [_STRIP, r], 1.0 where the weight is pruned, else 0.0
    lower: Tensor  # [_STRIP, _STRIP], of the factor
    # Of each column: the above, the columns before it [r, j], and the factor's row [j] for those.
    views: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, wt: Tensor) -> "_Strip":  # float32 [i, r]
        """Make room for strips of a matrix."""
        dense, best, lost, going = wt.new_empty(4, _STRIP, wt.shape[1])
        lower = wt.new_empty(_STRIP, _STRIP)
        views = [(dense[j], best[j], lost[j], going[j], lost[:j].t(), lower[j, :j]) for j in range(_STRIP)]
        return cls(dense, best, lost, going, lower, views)

    def load(self, wt: Tensor, lost: Tensor, goes: Tensor, lower: Tensor, columns: slice) -> None:
        """Load some columns of matrices [i, r], and of the factor [i, i]."""
        here = slice(0, columns.stop - columns.start)
        self.dense[here] = wt[columns]
        self.best[here] = lost[columns]
        self.going[here] = goes[columns]
        self.lower[here, here] = lower[columns, columns]

    def settle(self, j: int) -> None:
        """Settle column j of the strip: pruned weights lose all, the others the best amount."""
        dense, best, lost, going, before, row = self.views[j]
        if j:
            best.addmv_(before, row, alpha=-1)
        torch.lerp(best, dense, going, out=lost)  # by 0 or 1: the one or the other, exactly

    def ahead(self, j: int, stop: int) -> Tensor:  # [stop - j, r]
        """Return what columns j to `stop` of the strip would lose if all were kept; settled columns do not change."""
        for _, best, lost, _, before, row in self.views[j:stop]:  # they are not settled yet: their place is free
            if before.shape[1]:
                torch.addmv(best, before, row, alpha=-1, out=lost)
            else:
                lost.copy_(best)
        return self.lost[j:stop]

    def store(self, lost: Tensor) -> None:  # [columns, r]
        """Write the strip's losses to the matrix."""
        lost.copy_(self.lost[: len(lost)])

    def missed(self, columns: int) -> Tensor:  # [columns, r]
        """Return the best loss minus the actual one, overwriting `best`."""
        return self.best[:columns].sub_(self.lost[:columns])


def _ahead(
    lost: Tensor,  # [i, r]
    lower: Tensor,  # [i, i]
    strip: _Strip,
    place: tuple[int, int, int, int],
    stop: int,
) -> Tensor:  # [stop - j, r]
    """Return what columns j to `stop` would lose if all were kept, without changing anything.

    place: (first column of the block, of the strip, end of the strip, j). Columns in the strip already have the block's earlier
    corrections; columns beyond it have none of this block's.
    """
    start, left, right, j = place
    if stop <= right:  # a few columns: one after the other, since a small product on several threads is slower
        return strip.ahead(j - left, stop - left)
    ahead, settled = lost[j:stop].clone(), strip.lost[: j - left]
    # A product with the inverse of the small square takes half the time of solving for thousands of rows.
    identity = torch.eye(stop - j, dtype=lower.dtype, device=lower.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower[j:stop, j:stop], identity, upper=False, unitriangular=True)
    with whole_inputs(lower.device):
        if j > left:
            ahead.addmm_(lower[j:stop, left:j], settled, alpha=-1)
        if left > start:
            ahead[right - j :].addmm_(lower[right:stop, start:left], lost[start:left], alpha=-1)
        return inverse @ ahead
