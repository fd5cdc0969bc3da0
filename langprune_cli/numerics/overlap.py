"""How similar two masks, two sets of scores or two sets of column norms are: counts and sums, divided last."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from langprune_cli.numerics.patterns import Pattern, keep_mask

Figures = dict[str, float | None]  # None if the divisor is 0


@dataclass(frozen=True)
class Overlap:
    """How many of the same weights two masks prune."""

    weights: int
    removed: int  # by the first mask
    removed_by_other: int
    removed_by_both: int
    both_by_chance: (
        float  # expected number pruned by both, if each mask were drawn at random with its count in each linear
    )

    def figures(self) -> Figures:
        """Return both sparsities, and the Jaccard indices of the pruned and of the kept weights, found and by chance.

        A Jaccard index is the intersection over the union. For the pruned weights of two independent masks of sparsities s
        and r it is s r / (s + r - s r).
        """
        removed = self.removed + self.removed_by_other
        kept = 2 * self.weights - removed
        found = {}
        for suffix, both in (("", self.removed_by_both), ("_by_chance", self.both_by_chance)):
            kept_by_both = self.weights - removed + both
            found[f"removed_overlap{suffix}"] = _share(both, removed - both)
            found[f"kept_overlap{suffix}"] = _share(kept_by_both, kept - kept_by_both)
        sparsities = _share(self.removed, self.weights), _share(self.removed_by_other, self.weights)
        return dict(zip(("sparsity", "other_sparsity"), sparsities, strict=True)) | found


@dataclass(frozen=True)
class Agreement:
    """How two scores of the same weights agree, compared within rows."""

    rows: int  # whose scores differ at all
    correlations: float  # Spearman's rank correlation, summed over those rows
    either: int  # weights in the upper half of their row by either score
    both: int  # weights there by both

    def figures(self) -> Figures:
        """Return the mean of Spearman's correlation over rows, and the Jaccard index of the upper halves (a third by chance)."""
        return {"spearman": _share(self.correlations, self.rows), "top_half_overlap": _share(self.both, self.either)}


@dataclass(frozen=True)
class Divergence:
    """How the column norms of two texts differ over some sites."""

    sites: int
    cosines: float  # of the two vectors of norms, summed over sites
    columns: int  # that are not zero in both texts
    compared: int  # that are zero in neither
    log_ratios: float  # |log of the ratio of the two norms|, summed over those
    apart: int  # columns whose norm in one text is more than twice that in the other, or zero in one only

    def figures(self) -> Figures:
        """Return the mean cosine over sites, the mean |log ratio| over columns, and the share of columns 2x apart."""
        return {
            "cosine": _share(self.cosines, self.sites),
            "log_ratio": _share(self.log_ratios, self.compared),
            "apart": _share(self.apart, self.columns),
        }


S = TypeVar("S", Overlap, Agreement, Divergence)


def total(parts: Sequence[S]) -> S:
    """Return the field-by-field sums of all parts."""
    return type(parts[0])(*map(sum, zip(*map(astuple, parts), strict=True)))


def overlap_of(
    keep: Tensor,  # bool [o, i]
    other: Tensor,  # bool [o, i]
) -> Overlap:
    """Compare two keep masks of one linear."""
    weights = keep.numel()
    removed, removed_by_other = weights - int(keep.sum()), weights - int(other.sum())
    both = weights - int((keep | other).sum())
    return Overlap(weights, removed, removed_by_other, both, removed * removed_by_other / weights)


def agreement_of(
    score: Tensor,  # float32 [o, i]
    other: Tensor,  # float32 [o, i]
) -> Agreement:
    """Compare two scores of one linear, row by row."""
    upper = [keep_mask(each, Pattern(0.5)) for each in (score, other)]
    ranks = [average_ranks(each) for each in (score, other)]
    centred = [each - each.mean(dim=1, keepdim=True) for each in ranks]
    spread = centred[0].norm(dim=1) * centred[1].norm(dim=1)
    differ = spread > 0
    correlations = (centred[0] * centred[1]).sum(dim=1)[differ] / spread[differ]
    both, either = upper[0] & upper[1], upper[0] | upper[1]
    return Agreement(int(differ.sum()), float(correlations.sum()), int(either.sum()), int(both.sum()))


def divergence_of(
    mean_sq: Tensor,  # float64 [i], mean over tokens of x squared
    other: Tensor,  # float64 [i]
) -> Divergence:
    """Compare the root mean squares per token of one site's columns in two texts."""
    norms, others = mean_sq.sqrt(), other.sqrt()
    sizes = float(norms.norm() * others.norm())
    compared = (norms > 0) & (others > 0)
    ratios = (norms[compared] / others[compared]).log().abs()
    columns = int(((norms > 0) | (others > 0)).sum())
    # 2x in norms is 4x in squares. Powers of two are exact, so rounding cannot decide about a ratio of exactly 2.
    apart = int(((mean_sq > 4 * other) | (other > 4 * mean_sq)).sum())
    return Divergence(
        sites=int(sizes > 0),
        cosines=float(norms @ others) / sizes if sizes > 0 else 0.0,
        columns=columns,
        compared=int(compared.sum()),
        log_ratios=float(ratios.sum()),
        apart=apart,
    )


def average_ranks(
    score: Tensor,  # [o, i]
) -> Tensor:  # float64 [o, i]
    """Return each weight's rank in its row, 0 lowest; ties get the mean of their ranks."""
    # numpy takes a fifth of the time of torch's sort and two binary searches. The order of ties, which may differ between
    # processors, does not affect the result.
    values = score.numpy()
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    places = np.arange(ordered.shape[1])
    edges = np.ones((len(ordered), len(places) + 1), dtype=bool)  # between unequal neighbours, and at both ends
    edges[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(edges[:, :-1], places, 0), axis=1)
    last = np.minimum.accumulate(np.where(edges[:, 1:], places, len(places))[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(ordered.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return torch.from_numpy(ranks)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
