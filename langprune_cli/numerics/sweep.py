"""The OBS sweep: remove weights column by column, and let the columns to the right make up for each (SparseGPT)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Columns whose corrections reach the rest of the matrix in one product, and columns within which every correction is
# made at once. Both only group the same sums: 64 and 16 were fastest on two cores for 1024 to 5632 rows.
_BLOCK = 64
_STRIP = 16


@dataclass(frozen=True)
class Chooser:
    """Decides, `width` columns at a time, which weights stay, by what the columns to the left have made of them."""

    width: int
    choose: Callable[[Tensor, int], Tensor]  # (scores [r, c], first column) -> keep [r, c]; c <= width


@dataclass(frozen=True)
class Swept:
    """What a sweep left."""

    weight: Tensor  # float32 [r, i]
    keep: Tensor  # bool [r, i]


def sweep(
    w: Tensor,  # float32 [r, i]
    u: Tensor,  # float32 [i, i], upper, of `inverse_factor`
    keep: Tensor | Chooser,  # bool [r, i], or how to find it on the way
) -> Swept:
    """Remove what `keep` does not hold, column after column, and push the error w_j / U_jj onto the columns to the right.

    This is SparseGPT's algorithm 1 (arXiv 2301.00774); a chooser sees the scores w^2 / U_jj^2 of its columns after all
    corrections from the left. Its masks, given as they are, lead to the very same weights, bit by bit: the grouping of sums
    does not depend on who chose. Rows do not influence one another, so that linears which share H are swept in one call.
    """
    # Transposed: a column of w is then one contiguous row, which the inner loop reads and writes whole.
    wt = w.t().contiguous()  # [i, r]
    columns = len(wt)
    goes = torch.zeros(wt.shape, dtype=torch.bool, device=w.device) if isinstance(keep, Chooser) else ~keep.t()
    inverse = u.diagonal().reciprocal().tolist()
    errors = torch.empty(_BLOCK, w.shape[0], dtype=w.dtype, device=w.device)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        for left in range(start, end, _STRIP):
            right = min(left + _STRIP, end)
            if left > start:
                wt[left:right].addmm_(u[start:left, left:right].t(), errors[: left - start], alpha=-1)
            for j in range(left, right):
                if isinstance(keep, Chooser) and j % keep.width == 0:
                    ahead = _ahead(wt, u, errors, (start, left, right, j), min(j + keep.width, columns))
                    scores = (ahead / u.diagonal()[j : j + len(ahead), None]).square_()
                    goes[j : j + len(ahead)] = ~keep.choose(scores.t(), j).t()
                if j > left:
                    wt[j].addmv_(errors[left - start : j - start].t(), u[left:j, j], alpha=-1)
                torch.mul(wt[j], goes[j], out=errors[j - start]).mul_(inverse[j])
        if end < columns:
            wt[end:].addmm_(u[start:end, end:].t(), errors[: end - start], alpha=-1)
    return Swept(wt.masked_fill_(goes, 0.0).t(), ~goes.t())


def _ahead(
    wt: Tensor,  # [i, r]
    u: Tensor,  # [i, i]
    errors: Tensor,  # [<= _BLOCK, r]
    place: tuple[int, int, int, int],
    stop: int,
) -> Tensor:  # [stop - j, r]
    """Return columns j to `stop` as all errors to the left of j leave them, without changing anything.

    place: (first column of the block, of the strip, end of the strip, j). What lies in the strip already has the block's
    corrections from before the strip, and what lies beyond it has none of this block's.
    """
    start, left, right, j = place
    ahead = wt[j:stop].clone()
    split = min(right, stop) - j
    if j > left:
        ahead[:split].addmm_(u[left:j, j : j + split].t(), errors[left - start : j - start], alpha=-1)
    if j > start and stop > right:
        ahead[split:].addmm_(u[start:j, right:stop].t(), errors[: j - start], alpha=-1)
    return ahead
