"""Which weights stay, by trying every choice or by a plain stable sort."""

from fractions import Fraction
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Keep = NDArray[np.bool_]


def whole_part(size: int, sparsity: str) -> int:
    """Return the whole part of size x sparsity, where sparsity is the decimal that a user typed."""
    return int(size * Fraction(sparsity))


def keep_after_dropping(scores: list[float], count: int) -> list[bool]:
    """Return which of one group stay when its `count` lowest leave, the earlier of equals first."""
    order = sorted(range(len(scores)), key=lambda place: scores[place])  # Python's sort is stable
    leaving = set(order[:count])
    return [place not in leaving for place in range(len(scores))]


def best_subset(scores: list[float], n: int) -> list[bool]:
    """Return which n of one group to keep, by looking at every subset of n.

    The best has the highest scores, compared from its highest down; of equally good ones, that with the later columns.
    """

    def worth(subset: tuple[int, ...]) -> tuple[list[float], list[int]]:
        return sorted((scores[place] for place in subset), reverse=True), sorted(subset, reverse=True)

    best = max(combinations(range(len(scores)), n), key=worth)
    return [place in best for place in range(len(scores))]


def keep_n_of_m(scores: Matrix, n: int, m: int) -> Keep:
    """Return the N:M keep mask by brute force; columns beyond the last whole group stay."""
    keep = np.ones(scores.shape, dtype=bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1] - m + 1, m):
            keep[row, start : start + m] = best_subset(list(scores[row, start : start + m]), n)
    return keep
