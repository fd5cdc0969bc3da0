"""Sparsity patterns: which weights of one linear are kept, given a score (higher = keep)."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.numerics.pattern_names import unknown
from langprune_cli.numerics.values import count_true

Group = Literal["row", "layer"]
Ties = Literal["exact", "together"]

# With "together", weights that equal the threshold are pruned with it. If they exceed this share of the matrix, they are not
# ties but the shape of the data (such as all scores equal), and the exact count is used instead.
_MOST_TIES = 0.01
SMALL_GROUP = 16  # up to this M, comparing all pairs is faster than selecting


@dataclass(frozen=True)
class Pattern:
    """`unstructured` at a sparsity, or N:M = N weights kept of every M consecutive inputs."""

    sparsity: float  # fraction removed, 0..1; for N:M it is 1 - N/M
    keep_of: tuple[int, int] | None = None  # (N, M)
    mix_of: int | None = None  # M of a pattern N:M, N chosen for each block by an allocation
    exact: bool = False  # rows differ by one weight, so that the linear's count is exact

    def __str__(self) -> str:
        if self.mix_of:
            return f"N:{self.mix_of}"
        return f"{self.keep_of[0]}:{self.keep_of[1]}" if self.keep_of else "unstructured"

    @property
    def m(self) -> int | None:
        """Return M of N:M, None for `unstructured`."""
        return self.keep_of[1] if self.keep_of else self.mix_of

    @property
    def slug(self) -> str:
        """Short form for artifact names: 0.5, 2x4 or Nx8-0.5."""
        if self.mix_of:
            return f"Nx{self.mix_of}-{self.sparsity:g}"
        return f"{self.keep_of[0]}x{self.keep_of[1]}" if self.keep_of else f"{self.sparsity:g}"

    def within_rows(self, group: Group) -> bool:
        """Return whether a row's mask depends on that row's scores alone."""
        return self.m is not None or (group == "row" and not self.exact)

    def tail(self, columns: int) -> int:
        """Return how many columns at the end of a row stay dense because M does not divide it."""
        return columns % self.m if self.m else 0


def parse_pattern(text: str, sparsity: float | None) -> Pattern:
    """Read `unstructured`, `N:M` or `N:8`, N left free, and check it against `sparsity` (None: 0.5, or what N:M implies).

    Raises UsageError for an unknown pattern or a sparsity that contradicts N:M, LangpruneError for values out of range.
    """
    if sparsity is not None and not 0.0 <= sparsity <= 1.0:
        raise LangpruneError(f"--sparsity {sparsity:g} is not a fraction removed between 0 and 1: give 0.5 for half")
    if text == "unstructured":
        return Pattern(0.5 if sparsity is None else sparsity)
    if (found := re.fullmatch(r"N:(\d{1,4})", text)) and int(found[1]) > 1:
        return Pattern(0.5 if sparsity is None else sparsity, mix_of=int(found[1]))
    if not (found := re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)):
        raise unknown(text)
    n, m = int(found[1]), int(found[2])
    if n >= m:
        raise LangpruneError(
            f"--pattern {text} keeps {n} of every {m} weights, which removes nothing: N must be smaller than M, as in 2:4"
        )
    if n == 0:
        raise LangpruneError(f"--pattern {text} keeps none of every {m} weights: N must be at least 1, as in 2:4")
    implied = 1 - n / m
    if sparsity is not None and abs(sparsity - implied) > 1e-6:
        raise UsageError(
            f"--sparsity {sparsity:g} contradicts --pattern {text}, which removes {implied:g}: leave it out"
        )
    return Pattern(implied, (n, m))


def prune_count(size: int, sparsity: float) -> int:
    """Return how many of `size` weights to prune: the integer part of size x sparsity, as in the published Wanda code.

    The factor corrects binary rounding of a few parts in 2^53 (0.29 x 100 is 28.999...).
    """
    return min(size, int(size * sparsity * (1 + 2**-50)))


def keep_mask(
    score: Tensor,  # float32 [o, i], higher = keep
    pattern: Pattern,
    *,
    group: Group = "row",
    ties: Ties = "exact",
) -> Tensor:  # bool [o, i], True = kept
    """Choose the weights to keep: the lowest scores of each group are pruned.

    Groups are rows, the whole layer, or M consecutive columns of a row. With `ties="exact"` the count is exact, and of
    equal scores the one in the earlier column (or row) is pruned first. With `ties="together"`, for layer groups, all
    weights at or below the threshold are pruned, as in published magnitude pruning, unless more than 1% of them tie.
    """
    if pattern.keep_of:
        return _keep_n_of_m(score, *pattern.keep_of)
    if pattern.exact and group == "row":
        return _drop_lowest_of_rows(score, prune_count(score.numel(), pattern.sparsity))
    flat = score if group == "row" else score.reshape(1, -1)
    count = prune_count(flat.shape[1], pattern.sparsity)
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    if ties == "together" and group == "layer" and count < flat.shape[1]:
        keep = flat > kth_lowest(flat, count + 1)
        removed = keep.numel() - count_true(keep)
        if removed - count <= _MOST_TIES * keep.numel():
            return keep.view_as(score)
    return _drop_lowest(flat, count).view_as(score)


def choose_in_steps(
    score: Tensor,  # float32 [o, c], the columns from `first` on
    pattern: Pattern,
    first: int,
) -> Tensor:  # bool [o, c]
    """Choose among some columns of a linear after those to the left, as a sweep does.

    N:M: one group of M; a shorter tail is kept. Unstructured: prune the lowest scores of all rows together, so many that the
    count over all columns so far is `prune_count` of them. So the linear's total is exact.
    """
    rows, width = score.shape
    if pattern.keep_of:
        n, m = pattern.keep_of
        return _n_best(score, n) if width == m else torch.ones_like(score, dtype=torch.bool)
    before, after = (prune_count(rows * columns, pattern.sparsity) for columns in (first, first + width))
    return _drop_lowest(score.reshape(1, -1), after - before).view_as(score)


def follows(
    weight: Tensor,  # [o, i]
    pattern: Pattern,
) -> bool:
    """Return whether each group of M has at most N nonzero weights; true for `unstructured`."""
    if not pattern.keep_of:
        return True
    n, m = pattern.keep_of
    groups = weight[:, : weight.shape[1] - weight.shape[1] % m].reshape(-1, m)
    return bool((groups.count_nonzero(dim=1) <= n).all())


def _keep_n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    rows, columns = score.shape
    whole = columns - columns % m
    keep = torch.ones_like(score, dtype=torch.bool)
    groups = score[:, :whole].reshape(-1, m)
    keep[:, :whole] = _n_best(groups, n).reshape(rows, whole)
    return keep


def _n_best(
    score: Tensor,  # [g, m]
    n: int,
) -> Tensor:  # bool [g, m]
    """Mark the n highest of each group; of ties the later column."""
    m = score.shape[1]
    return _rank_in_group(score) >= m - n if m <= SMALL_GROUP else _drop_lowest(score, m - n)


def _rank_in_group(
    score: Tensor,  # [g, m]
) -> Tensor:  # int8 [g, m]
    """Return each weight's rank in its group, 0 lowest; of ties the earlier column is lower.

    m^2 comparisons of whole columns are several times faster than sorting millions of groups of four or eight; on CPU,
    numpy takes a fifth of torch's time for a few thousand.
    """
    columns = score.t().contiguous()
    ranks = torch.zeros(columns.shape, dtype=torch.int8, device=score.device)
    values, counts = (columns.numpy(), ranks.numpy()) if score.device.type == "cpu" else (columns, ranks)
    for later in range(len(values)):
        for earlier in range(later):
            above = values[earlier] <= values[later]
            counts[later] += above
            counts[earlier] += ~above
    return ranks.t()


def _drop_lowest(
    score: Tensor,  # [g, k]
    count: int,
) -> Tensor:  # bool [g, k]
    """Mark all but the `count` lowest of each row; of ties the earlier column is pruned first."""
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    threshold = kth_lowest(score, count)
    keep = score > threshold
    # Each row has at least `count` at or below its threshold: if the total is no more, no row has ties.
    if count_true(keep) < keep.numel() - count * len(keep):
        tied = score == threshold
        spare = keep.shape[1] - count - keep.sum(dim=1, keepdim=True)  # how many at the threshold are kept
        keep |= tied & (tied.cumsum(dim=1) > tied.sum(dim=1, keepdim=True) - spare)
    return keep


def _drop_lowest_of_rows(
    score: Tensor,  # [o, i]
    count: int,
) -> Tensor:  # bool [o, i]
    """Mark all but `count` weights: each row loses the same number of its lowest, and some rows one more.

    These are the rows whose next lowest score is lowest.
    """
    each, more = divmod(count, score.shape[0])
    keep = _drop_lowest(score, each)
    if more:
        following = kth_lowest(score, each + 1)
        chosen = ~_drop_lowest(following.reshape(1, -1), more).view(-1)
        keep[chosen] = _drop_lowest(score[chosen], each + 1)
    return keep


def kth_lowest(
    score: Tensor,  # [g, k]
    count: int,
) -> Tensor:  # [g, 1]
    """Return the count-th lowest value of each row; on CPU by numpy's partition, ten times as fast as torch's sort."""
    if score.device.type == "cpu":
        return torch.from_numpy(np.partition(score.numpy(), count - 1, axis=1)[:, count - 1 : count])
    return score.kthvalue(count, dim=1, keepdim=True).values
