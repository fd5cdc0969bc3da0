"""DSnoT: swap weights until the expected output error of each row is small (Dynamic Sparse No Training, arXiv 2310.08915).

Pruning a weight takes w_j x_j from its row's output, and E[w_j x_j] = w_j Σx_j / tokens. The sum of these over the pruned
weights is the row's expected error. In each cycle a row keeps one pruned weight again, the one with the largest contribution
per variance of its input among those that bring this error towards zero (growing). Then it prunes the kept weight with the
lowest Wanda score among those whose contribution has the other sign (pruning; both in section 3 of the paper). Column sums are
enough for this; correlations between inputs, as in a Hessian, do not enter.

This differs from the published code in two ways; the published ones gave much worse masks when tried. The published code
compares the threshold with sums over a window of 2048 tokens, not with the expectation, so hardly a row stops before its last
cycle. For N:M it prunes the group's lowest score whatever the sign, often a weight far more important than the grown one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site, SiteStats
from langprune_cli.refinements.refinement import Refinement

_CYCLES = 50  # most swaps per row, as published
_THRESHOLD = 0.1  # rows with an expected error below this, in units of the output, stop; as published
_ROWS = 4096  # rows per batch, to limit memory


def refine(
    site: Site,
    keep: Tensor,  # bool [r, i]
    pattern: Pattern,
) -> Tensor:  # bool [r, i]
    """Return the mask after at most 50 swaps in each row; each weight moves at most once, as in the published code.

    For N:M both ends of a swap are in one group. Raises ValueError if the site has no column sums.
    """
    columns = _Columns.of(site.norms, site.weight.shape[1] - pattern.tail(site.weight.shape[1]))
    batches = zip(torch.split(site.weight, _ROWS), torch.split(keep, _ROWS), strict=True)
    return torch.cat([_refine_rows(w, kept, columns, pattern.m) for w, kept in batches])


@dataclass(frozen=True)
class _Columns:
    """The statistics of each input."""

    expected: Tensor  # float64 [i], Σx / tokens; zero in a tail, whose weights do not move
    variance: Tensor  # float64 [i], of x over tokens, above zero
    norm: Tensor  # float64 [i], the root of Σx²

    @classmethod
    def of(cls, stats: SiteStats, whole: int) -> "_Columns":
        """Read the columns from a site's statistics; those from `whole` on are a tail."""
        expected = stats.sum_x / max(stats.tokens, 1)
        square = stats.sum_sq / max(stats.tokens, 1)
        variance = square - expected.square()
        expected[whole:] = 0.0
        # A constant input has variance zero up to rounding, and its weights grow first; a dead input is never chosen.
        floor = (1e-12 * square).clamp(min=torch.finfo(torch.float32).tiny)
        return cls(expected, torch.maximum(variance, floor), stats.sum_sq.sqrt())


@dataclass(frozen=True)
class _Candidates:
    """Weights in the order of choice: for rows with a positive expected error, and for the others."""

    columns: Tensor  # int64 [n, 2, cycles]
    there: Tensor  # bool [n, 2, cycles], False past the last candidate

    @classmethod
    def lowest(cls, positive: Tensor, negative: Tensor, count: int) -> "_Candidates":
        """Take the `count` lowest of each row of values [n, i]; inf marks weights that are no candidates."""
        values, columns = torch.stack([positive, negative], dim=1).topk(count, dim=2, largest=False)
        return cls(columns, values < torch.inf)


def _refine_rows(
    w: Tensor,  # [n, i]
    keep: Tensor,  # bool [n, i]
    columns: _Columns,
    m: int | None,  # None: swaps anywhere in the row
) -> Tensor:  # bool [n, i]
    """Swap in all rows at once, one swap at a time."""
    keep = keep.clone()
    expected = w * columns.expected.to(w.dtype)
    growth = w * (columns.expected / columns.variance).to(w.dtype)
    score = (w.abs() * columns.norm.to(w.dtype)).masked_fill_(~keep, torch.inf)
    error = expected.masked_fill(keep, 0.0).sum(dim=1)
    cycles = min(_CYCLES, w.shape[1])
    up, down = expected > 0, expected < 0
    # A positive error means lost positive contributions: keep one of those again, and prune a negative one.
    grown = _Candidates.lowest(_only(-growth, up & ~keep), _only(growth, down & ~keep), cycles)
    pruned = _Candidates.lowest(_only(score, down & keep), _only(score, up & keep), cycles)
    turn = torch.zeros(len(w), 2, dtype=torch.int64, device=w.device)
    n = torch.arange(len(w), device=w.device)
    for _ in range(cycles):
        side = (error < 0).long()
        at = (n, side, turn[n, side])
        g = grown.columns[at]
        live = (error.abs() > _THRESHOLD) & grown.there[at]
        if not bool(live.any()):
            break
        if m:
            group = ((g - g % m)[:, None] + torch.arange(m, device=w.device)).clamp_(max=w.shape[1] - 1)
            other_sign = expected.gather(1, group) * (1 - 2 * side)[:, None] < 0
            lowest, place = _only(score.gather(1, group), other_sign).min(dim=1)
            p, there = group[n, place], lowest < torch.inf
        else:
            p, there = pruned.columns[at], pruned.there[at]
        swaps = live & there  # without a partner nothing grows; the next candidate is tried
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
    """Return the values of candidates, inf for others."""
    return torch.where(where, values, torch.inf)


REFINEMENT = Refinement("dsnot", "norms", "https://arxiv.org/abs/2310.08915", refine)
