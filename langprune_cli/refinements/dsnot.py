"""DSnoT: swap weights until the expected output error of each row is small (Dynamic Sparse No Training, arXiv 2310.08915).

What a pruned weight takes from its row's output is w_j x_j, on average over a window's tokens together w_j Σx_j / windows.
The sum of these over the pruned weights is the row's expected error. In each cycle a row keeps one pruned weight again that
brings this error towards zero, the one of the largest contribution for its input's variance (growing), and prunes the kept
one of the lowest Wanda score among those whose contribution has the other sign (pruning; both are section 3.2 of the paper).
Nothing is known here of how inputs go together, which is what a Hessian would tell: column sums are enough.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site, SiteStats
from langprune_cli.refinements.refinement import Refinement

_CYCLES = 50  # swaps that a row makes at most, as in the published code
_THRESHOLD = 0.1  # of the expected error, below which a row is left alone: sums over a window, as in the published code
_ROWS = 4096  # rows of one batch, for the sake of memory


def refine(
    site: Site,
    keep: Tensor,  # bool [r, i]
    pattern: Pattern,
) -> Tensor:  # bool [r, i]
    """Return the mask after at most 50 swaps in each row; a weight moves once at most, as in the published code.

    For N:M the pruned end of a swap is the group's lowest Wanda score, of any sign, and a row is finished by a swap that
    would turn its error's sign, as in the published code. Raises ValueError where the site has no column sums.
    """
    columns = _Columns.of(site.norms, site.weight.shape[1] - pattern.tail(site.weight.shape[1]))
    batches = zip(torch.split(site.weight, _ROWS), torch.split(keep, _ROWS), strict=True)
    return torch.cat([_refine_rows(w, kept, columns, pattern.m) for w, kept in batches])


@dataclass(frozen=True)
class _Columns:
    """What is known of each input."""

    expected: Tensor  # float64 [i], Σx / windows; zero in a tail, whose weights are not moved
    variance: Tensor  # float64 [i], of x over tokens, above zero
    norm: Tensor  # float64 [i], the root of Σx²

    @classmethod
    def of(cls, stats: SiteStats, whole: int) -> "_Columns":
        """Read the columns from a site's statistics; those from `whole` on are a tail."""
        expected = stats.sum_x / max(stats.tokens, 1)
        square = stats.sum_sq / max(stats.tokens, 1)
        variance = square - expected.square()
        expected[whole:] = 0.0
        # A constant input has a variance of zero, but for rounding, and is the surest to grow; a dead one is never chosen.
        floor = (1e-12 * square).clamp(min=torch.finfo(torch.float32).tiny)
        return cls(expected, torch.maximum(variance, floor), stats.sum_sq.sqrt())


@dataclass(frozen=True)
class _Candidates:
    """Weights in the order in which they are taken: for rows whose expected error is positive, and for the others."""

    columns: Tensor  # int64 [n, 2, cycles]
    there: Tensor  # bool [n, 2, cycles], False past the last candidate

    @classmethod
    def lowest(cls, positive: Tensor, negative: Tensor, count: int) -> "_Candidates":
        """Take the `count` lowest of each row of values [n, i], inf where a weight is no candidate."""
        values, columns = torch.stack([positive, negative], dim=1).topk(count, dim=2, largest=False)
        return cls(columns, values < torch.inf)


def _refine_rows(
    w: Tensor,  # [n, i]
    keep: Tensor,  # bool [n, i]
    columns: _Columns,
    m: int | None,  # None: swaps anywhere in the row
) -> Tensor:  # bool [n, i]
    """Swap in each row, all rows at once, a swap at a time."""
    keep = keep.clone()
    expected = w * columns.expected.to(w.dtype)
    growth = w * (columns.expected / columns.variance).to(w.dtype)
    score = (w.abs() * columns.norm.to(w.dtype)).masked_fill_(~keep, torch.inf)
    error = expected.masked_fill(keep, 0.0).sum(dim=1)
    cycles = min(_CYCLES, w.shape[1])
    up, down = expected > 0, expected < 0
    # A positive error lacks what is positive: that is kept again, and what is negative is pruned.
    grown = _Candidates.lowest(_only(-growth, up & ~keep), _only(growth, down & ~keep), cycles)
    pruned = _Candidates.lowest(_only(score, down & keep), _only(score, up & keep), cycles)
    turn = torch.zeros(len(w), 2, dtype=torch.int64, device=w.device)
    n, sign, live = torch.arange(len(w), device=w.device), error.sign(), error.abs() > _THRESHOLD
    for _ in range(cycles):
        side = (error < 0).long()
        at = (n, side, turn[n, side])
        g = grown.columns[at]
        live = live & (error.abs() > _THRESHOLD) & grown.there[at]
        if m:
            group = ((g - g % m)[:, None] + torch.arange(m, device=w.device)).clamp_(max=w.shape[1] - 1)
            part = expected.gather(1, group) * (1 - 2 * side)[:, None]
            lowest, place = _only(score.gather(1, group), part < 0).min(dim=1)
            possible = lowest < torch.inf  # else all that the group kept at first has moved: the next one's turn
            p = torch.where(possible, group[n, place], g)
            live = live & ((error + expected[n, p] - expected[n, g]).sign() == sign)
            swaps = live & possible
        else:
            p = pruned.columns[at]
            live = swaps = live & pruned.there[at]
        if not bool(live.any()):
            break
        row, p, g = n[swaps], p[swaps], g[swaps]
        keep[row, g] = True
        keep[row, p] = False
        score[row, p] = torch.inf
        error[row] += expected[row, p] - expected[row, g]
        turn[n, side] += 1
    return keep


def _only(
    values: Tensor,  # [n, i]
    where: Tensor,  # bool [n, i]
) -> Tensor:  # [n, i]
    """Return the values of candidates, and inf for all others."""
    return torch.where(where, values, torch.inf)


REFINEMENT = Refinement("dsnot", "norms", "https://arxiv.org/abs/2310.08915", refine)
