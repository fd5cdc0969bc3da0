"""Optimal swaps: exchange a kept and a pruned weight wherever that lowers the row's loss (SparseSwaps, arXiv 2512.10922).

The loss of a row w is d H dᵀ, where d is w on the pruned weights and zero elsewhere. With Q_jk = w_j H_jk w_k it is the sum
of Q over all pairs of pruned weights. Let v_j be the sum of Q_jk over the pruned k. Then

    pruning the kept weight u adds      leave_u = Q_uu + 2 v_u,
    keeping the pruned weight p adds    back_p  = Q_pp - 2 v_p,
    and doing both adds                 leave_u + back_p - 2 Q_up,  which is a swap's exact cost.

A row has up to millions of pairs, and nearly all of them can be ruled out unseen. Let r_j be the largest correlation of
column j with another column, so that Q_up² <= r_u Q_uu r_p Q_pp. The mean of two numbers is no less than the root of their
product, and so for any t > 0

    cost of (u, p) >= (leave_u - t r_u Q_uu) + (back_p - r_p Q_pp / t),

in which u and p are apart: the smallest second term tells how good a swap of u can be at best. Only the weights with the
lowest of these bounds are tried, with exact costs; a row is finished when it has no others whose bound is below zero, which
proves that no swap at all can help.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_SHORTLIST = 64  # weights of each side tried first; most swaps are among them
_ROWS = 512  # rows of one batch: its matrices stay in the cache
_PAIRS = 2**20  # costs of pairs in one batch
_SPREADS = (0.5, 1.0)  # the t above; of a swap's two weights the kept one is seldom the smaller
_ROUNDING = 8  # a swap must gain more than this many units in the last place of the loss's terms


def row_loss(
    w: Tensor,  # [r, i]
    hessian: Tensor,  # [i, i], symmetric
    keep: Tensor,  # bool [r, i]
) -> Tensor:  # float64 [r]
    """Return the loss d H dᵀ of each row, d being its pruned weights: sums of squared output errors over all tokens."""
    pruned = w.masked_fill(keep, 0.0)
    return (pruned @ hessian).mul_(pruned).sum(dim=1, dtype=torch.float64)


def swap(
    w: Tensor,  # float [r, i]
    hessian: Tensor,  # float [i, i], symmetric, positive semidefinite, of w's dtype
    keep: Tensor,  # bool [r, i]
    m: int | None = None,
    most: int | None = None,
) -> Tensor:  # bool [r, i]
    """Swap weights of each row until no swap lowers its loss, the paper's optimum of 1-swaps, or `most` were made.

    Given `m`, swaps stay inside groups of `m` consecutive columns, and a shorter tail does not change. `most` defaults to the
    number of columns, which is never reached in practice. The number of weights kept in a row, or a group, does not change,
    and a row's loss never rises.
    """
    columns = w.shape[1]
    m = m or max(columns, 1)
    whole = columns - columns % m
    if not whole:
        return keep.clone()
    reach = hessian[:, :whole].contiguous()
    correlation = _largest_correlation(hessian[:whole, :whole], m)
    after = keep.clone()
    left = torch.full((len(w),), columns if most is None else most, device=w.device)
    pending = torch.arange(len(w), device=w.device)
    size = _SHORTLIST
    while len(pending):
        size = min(size, whole)
        search = _Search(reach, correlation, m, size)
        batches = torch.split(pending, max(1, min(_ROWS, _PAIRS // size**2)))
        pending = torch.cat([search.until_still(w, after, left, rows) for rows in batches])
        size *= 2
    better = row_loss(w, hessian, after) <= row_loss(w, hessian, keep)  # only rounding can raise a loss
    return torch.where(better[:, None], after, keep)


@dataclass(frozen=True)
class _Ends:
    """The weights that swaps may move in each row."""

    u: Tensor  # int64 [n, k], columns of kept weights
    p: Tensor  # int64 [n, l], columns of pruned weights
    leave: Tensor  # [n, k], what pruning each u adds to the loss; inf where u is not kept
    back: Tensor  # [n, l], what keeping each p adds; inf where p is not pruned


@dataclass(frozen=True)
class _Search:
    """Swaps among the `size` most promising kept and pruned weights of a row."""

    reach: Tensor  # [i, c], the Hessian's columns, without those of the tail
    correlation: Tensor  # [c], r of the module's text, with columns of the same group
    m: int
    size: int

    def until_still(
        self,
        w: Tensor,  # [r, i]
        keep: Tensor,  # bool [r, i], changed in place
        left: Tensor,  # int64 [r], how many swaps each row may still make; changed in place
        rows: Tensor,  # int64 [n]
    ) -> Tensor:  # int64 [<= n]
        """Swap in these rows until no row swaps any more; return the rows that may have missed a swap."""
        c = self.reach.shape[1]
        unsure = [rows[:0]]
        pull = w[rows].masked_fill_(keep[rows], 0.0) @ self.reach  # d H
        while len(rows):
            before, here = keep[rows, :c], w[rows, :c]
            v = pull * here
            # The terms sum to the loss without the tail. A gain of a few units in its last place would be rounding.
            least = v.masked_fill(before, 0.0).abs_().sum(dim=1) * (_ROUNDING * torch.finfo(w.dtype).eps)
            now = before.clone()
            swaps, sure = self._pass(here, v, now, least, left[rows])
            keep[rows, :c] = now
            left[rows] -= swaps
            unsure.append(rows[(swaps == 0) & ~sure & (left[rows] > 0)])
            moved = swaps > 0
            rows, pull = rows[moved], pull[moved]
            pull += self._pulled(here[moved], before[moved], now[moved], 2 * swaps[moved])
        return torch.cat(unsure)

    def _pass(
        self,
        w: Tensor,  # [n, c]
        v: Tensor,  # [n, c]
        keep: Tensor,  # bool [n, c], changed in place
        least: Tensor,  # [n], what a swap must win
        left: Tensor,  # int64 [n]
    ) -> tuple[Tensor, Tensor]:  # int64 [n], bool [n]
        """Swap among the shortlists; return each row's swaps, and whether no good swap can be outside them."""
        q = w.square() * self.reach.diagonal()
        leave, back = torch.where(keep, q + 2 * v, torch.inf), torch.where(keep, torch.inf, q - 2 * v)
        leave_bound, back_bound = self._bounds(leave, back, q * self.correlation)
        u, leave, all_of_u = self._shortlist(leave, leave_bound, least)
        p, back, all_of_p = self._shortlist(back, back_bound, least)
        return self._descend(w, keep, _Ends(u, p, leave, back), least, left), all_of_u & all_of_p

    def _shortlist(
        self,
        cost: Tensor,  # [n, c]
        bound: Tensor,  # [n, c]
        least: Tensor,  # [n]
    ) -> tuple[Tensor, Tensor, Tensor]:  # int64 [n, k], [n, k], bool [n]; k <= size
        """Return the most promising weights, their own costs, and whether all weights with a good swap are among them.

        A row with fewer such weights than others in its batch is padded with a cost of inf: a row's result must not depend
        on its batch.
        """
        good = bound < -least[:, None]
        count = good.sum(dim=1)
        length = max(1, min(self.size, int(count.max())))
        columns = bound.topk(length, dim=1, largest=False, sorted=False).indices
        cost = cost.masked_fill(~good, torch.inf).gather(1, columns)
        return columns, cost, count <= length

    def _bounds(
        self,
        leave: Tensor,  # [n, c]
        back: Tensor,  # [n, c]
        spread: Tensor,  # [n, c], r_j Q_jj
    ) -> tuple[Tensor, Tensor]:  # [n, c] each
        """Return a lower bound on the cost of swapping each weight with another of its group."""
        groups = (len(leave), -1, self.m)
        leave, back, spread = leave.view(groups), back.view(groups), spread.view(groups)
        leave_bound, back_bound = torch.full_like(leave, -torch.inf), torch.full_like(back, -torch.inf)
        for t in _SPREADS:
            leave_best, back_best = leave - t * spread, back - spread / t
            leave_bound = torch.maximum(leave_bound, leave_best + back_best.amin(dim=2, keepdim=True))
            back_bound = torch.maximum(back_bound, back_best + leave_best.amin(dim=2, keepdim=True))
        return leave_bound.flatten(1), back_bound.flatten(1)

    def _descend(
        self,
        w: Tensor,  # [n, c]
        keep: Tensor,  # bool [n, c], changed in place
        ends: _Ends,
        least: Tensor,  # [n]
        left: Tensor,  # int64 [n]
    ) -> Tensor:  # int64 [n]
        """Make the best swap between `ends`, then the next best, while they gain; return the number by row.

        Every swap changes v, and so all costs, by two columns of Q: v_j += Q_ju - Q_jp. A weight moves at most once.
        """
        swaps = torch.zeros_like(left)
        live = torch.arange(len(w), device=w.device)
        columns = torch.cat([ends.u, ends.p], dim=1)
        weights = w.gather(1, columns)
        leave, back = ends.leave, ends.back
        k = leave.shape[1]
        pair = self._hessian_at(ends.u[:, :, None], ends.p[:, None, :])  # [n, k, l], becomes -2 Q_up
        pair.mul_(weights[:, :k, None]).mul_(-2 * weights[:, None, k:])
        if self.m < w.shape[1]:
            pair.masked_fill_((ends.u // self.m)[:, :, None] != (ends.p // self.m)[:, None, :], torch.inf)
        costs = torch.empty_like(pair)
        while len(live):
            cost, u = (torch.add(pair, back[:, None, :], out=costs[: len(live)]).amin(dim=2) + leave).min(dim=1)
            wins = (cost < -least[live]) & (swaps[live] < left[live])
            if not bool(wins.all()):
                live, u, pair, leave, back = live[wins], u[wins], pair[wins], leave[wins], back[wins]
                columns, weights = columns[wins], weights[wins]
            n = torch.arange(len(live), device=w.device)
            p = (pair[n, u] + back).argmin(dim=1)
            goes, comes = columns[n, u], columns[n, k + p]
            swaps[live] += 1
            keep[live, goes] = False
            keep[live, comes] = True
            change = self._hessian_at(goes[:, None], columns) * weights[n, u][:, None]
            change -= self._hessian_at(comes[:, None], columns) * weights[n, k + p][:, None]
            change.mul_(2 * weights)
            leave, back = leave + change[:, :k], back - change[:, k:]
            leave[n, u] = torch.inf
            back[n, p] = torch.inf
        return swaps

    def _hessian_at(
        self,
        row: Tensor,  # int64
        column: Tensor,  # int64, of a shape that broadcasts with row's
    ) -> Tensor:
        """Return entries of the Hessian; one flat index is five times as fast as two."""
        flat = row * self.reach.shape[1] + column
        return self.reach.view(-1).index_select(0, flat.view(-1)).view(flat.shape)

    def _pulled(
        self,
        w: Tensor,  # [n, c]
        before: Tensor,  # bool [n, c]
        after: Tensor,  # bool [n, c]
        moved: Tensor,  # int64 [n], how many weights of each row have moved
    ) -> Tensor:  # [n, c]
        """Return what the swaps added to d H: the sum of the rows of H of the few weights that moved."""
        row, column = (before ^ after).nonzero(as_tuple=True)
        weight = torch.where(before[row, column], w[row, column], -w[row, column])
        return embedding_bag(column, self.reach, moved.cumsum(0) - moved, mode="sum", per_sample_weights=weight)


def _largest_correlation(
    hessian: Tensor,  # [c, c]
    m: int,
) -> Tensor:  # [c]
    """Return the largest |H_jk| / sqrt(H_jj H_kk) over k other than j in j's group of `m`; zero for dead columns."""
    scale = hessian.diagonal().clamp(min=0.0).rsqrt()
    scale = torch.where(torch.isfinite(scale), scale, 0.0)
    correlation = (hessian * scale).mul_(scale[:, None]).abs_().fill_diagonal_(0.0)
    group = torch.arange(len(scale), device=hessian.device) // m
    return correlation.mul_(group[:, None] == group).amax(dim=1)
