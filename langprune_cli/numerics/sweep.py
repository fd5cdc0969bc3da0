"""The OBS sweep: remove weights column by column, and let the columns to the right make up for each (SparseGPT)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.numerics.factor import Factor
from langprune_cli.numerics.precision import whole_inputs
from langprune_cli.numerics.site import Solution

# Columns whose corrections reach the rest of the matrix in one product, and columns within which every correction is
# made at once. Both only group the same sums: 128 and 16 were fastest on two cores for 1024 to 5632 rows.
_BLOCK = 128
_STRIP = 16


@dataclass(frozen=True)
class Chooser:
    """Decides, `width` columns at a time, which weights stay, by what the columns to the left have made of them."""

    width: int
    choose: Callable[[Tensor, int], Tensor]  # (scores [r, c], first column) -> keep [r, c]; c <= width


def sweep(
    w: Tensor,  # float32 [r, i]
    factor: Factor,  # of the damped Hessian [i, i]
    keep: Tensor | Chooser,  # bool [r, i], or how to find it on the way
) -> Solution:
    """Remove what `keep` does not hold, column after column, and let the columns to the right make up for it.

    This is SparseGPT's algorithm 1 (arXiv 2301.00774), which pushes the error w_j / U_jj of each column onto those to its right,
    in another order of the same sums: each column gathers from what those to its left have lost, so that the Hessian need be
    factored only, and not inverted. A chooser sees the scores w^2 / U_jj^2 of its columns after all corrections from the left.
    Its masks, given as they are, lead to the very same weights, bit by bit: the grouping of sums does not depend on who
    chose. Rows do not influence one another, so that linears which share H are swept in one call.

    The error of a row comes from what each column lost beside what would have been best there: the sum of P_j (l_j - c_j)^2
    is the damped one (`Factor`), of which the part of the damping is taken away.
    """
    # Transposed: a column of w is then one contiguous row, which the inner loop reads and writes whole.
    wt = w.t().clone(memory_format=torch.contiguous_format).add_(0.0)  # [i, r]; -0.0 becomes 0.0
    # Dense less new; of columns not reached yet, what the blocks to their left make of them.
    lost = torch.zeros_like(wt)
    if isinstance(keep, Chooser):
        goes = torch.zeros(wt.shape, dtype=torch.bool, device=w.device)
    else:
        goes = keep.t().logical_not().contiguous()
    columns, lower = len(wt), factor.lower
    dense, loss = wt.unbind(), lost.unbind()
    going = torch.empty(_STRIP, w.shape[0], dtype=w.dtype, device=w.device)  # of one strip, as numbers
    best = torch.empty_like(going)  # what it were best for one strip to lose
    missed = best.unbind()
    error = torch.zeros(w.shape[0], dtype=torch.float64, device=w.device)
    # Of one block, whose terms float32 adds up well enough: the damped error, and the damping's part of it.
    damped, damping = torch.empty(2, w.shape[0], dtype=w.dtype, device=w.device)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        damped.zero_()
        damping.zero_()
        for left in range(start, end, _STRIP):
            right = min(left + _STRIP, end)
            if left > start:
                lost[left:right].addmm_(lower[left:right, start:left], lost[start:left], alpha=-1)
            going[: right - left] = goes[left:right]
            best[: right - left] = lost[left:right]
            for j in range(left, right):
                if isinstance(keep, Chooser) and j % keep.width == 0:
                    stop = min(j + keep.width, columns)
                    reached = wt[j:stop] - _ahead(lost, lower, (start, left, right, j), stop)
                    scores = reached.square_().mul_(factor.pivots[j:stop, None])
                    goes[j:stop] = keep.choose(scores.t(), j).t().logical_not()
                    split = min(stop, right)
                    going[j - left : split - left] = goes[j:split]
                if j > left:
                    missed[j - left].addmv_(lost[left:j].t(), lower[j, left:j], alpha=-1)
                # of 0 and 1: the one or the other, exactly
                torch.lerp(missed[j - left], dense[j], going[j - left], out=loss[j])
            strip = slice(0, right - left)
            damped.addmv_(best[strip].sub_(lost[left:right]).square_().t(), factor.pivots[left:right])
            damping.addmv_(torch.square(lost[left:right], out=going[strip]).t(), factor.added[left:right])
        error += damped
        error -= damping
        if end < columns:
            with whole_inputs(w.device):
                lost[end:].addmm_(lower[end:, start:end], lost[start:end], alpha=-1)
    wt.sub_(lost)  # what goes has lost all of itself: the difference is +0.0
    del lost, loss
    return Solution(goes.t().logical_not().contiguous(), wt.t().contiguous(), error.clamp_(min=0.0))


def _ahead(
    lost: Tensor,  # [i, r]
    lower: Tensor,  # [i, i]
    place: tuple[int, int, int, int],
    stop: int,
) -> Tensor:  # [stop - j, r]
    """Return what columns j to `stop` would lose if all of them stayed, without changing anything.

    place: (first column of the block, of the strip, end of the strip, j). What lies in the strip already has the block's
    corrections from before the strip, and what lies beyond it has none of this block's.
    """
    start, left, right, j = place
    if stop <= right:  # a few columns: one after the other, since a small product on several threads is slower
        ahead = lost[left:stop].clone()
        for column in range(j - left, stop - left):
            if column:
                ahead[column].addmv_(ahead[:column].t(), lower[left + column, left : left + column], alpha=-1)
        return ahead[j - left :]
    ahead = lost[j:stop].clone()
    # By the inverse of the small square: a product with it takes half the time of solving for thousands of rows.
    identity = torch.eye(stop - j, dtype=lower.dtype, device=lower.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower[j:stop, j:stop], identity, upper=False, unitriangular=True)
    with whole_inputs(lower.device):
        if j > left:
            ahead[: right - j].addmm_(lower[j:right, left:j], lost[left:j], alpha=-1)
        if j > start:
            ahead[right - j :].addmm_(lower[right:stop, start:j], lost[start:j], alpha=-1)
        return inverse @ ahead
