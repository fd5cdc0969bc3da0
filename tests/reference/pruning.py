"""Magnitude, Wanda and SparseGPT in numpy, float64, from the papers' algorithms, and how clear each choice was."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.reference.selection import whole_part

Matrix = NDArray[np.float64]
Keep = NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """What leaves: a share of each group, as a user types it, or all but n of every m columns."""

    sparsity: str = "0.5"
    keep_of: tuple[int, int] | None = None


@dataclass(frozen=True)
class Pruned:
    """One linear after pruning."""

    keep: Keep  # [o, i]
    weight: Matrix  # [o, i]
    gap: float  # the smallest gap between the last score that leaves and the first that stays, as a share of the latter
    near: Keep  # [o, i], the weights whose scores lie so near to where their group is cut that rounding may turn them


class Choice:
    """The lowest scores of one group after the other leave; what is marked lies in one matrix."""

    def __init__(self, shape: tuple[int, ...], nearness: float = 0.0) -> None:
        self.keep: Keep = np.ones(shape, dtype=bool)
        self.near: Keep = np.zeros(shape, dtype=bool)
        self.gap = np.inf
        self.nearness = nearness

    def drop(self, scores: Matrix, place: tuple[slice, slice], count: int) -> None:
        """Let the `count` lowest of scores leave that lie at `place`, the earlier of equals first."""
        flat = scores.reshape(-1)
        if not 0 < count < flat.size:
            self.keep[place] = count == 0
            return
        order = np.argsort(flat, kind="stable")
        last, first = flat[order[count - 1]], flat[order[count]]
        self.gap = min(self.gap, (first - last) / first)
        keep = np.ones(flat.size, dtype=bool)
        keep[order[:count]] = False
        self.keep[place] = keep.reshape(scores.shape)
        self.near[place] = np.abs(scores - (first + last) / 2) < self.nearness * first


def magnitude(w: Matrix, target: Target, nearness: float = 0.0) -> Pruned:
    """Let the smallest |W| of the layer leave, or of each group of M (Han et al., arXiv 1506.02626, section 3).

    In a layer, that is up to and including the score at the place that the share gives, counted from 0: one more than the share,
    as in Wanda's published code.
    """
    return _at_once(w, np.abs(w), target, "layer", nearness)


def wanda(w: Matrix, sum_sq: Matrix, target: Target, nearness: float = 0.0) -> Pruned:
    """Let the smallest |W_ij| * ||x_j|| of each row leave, or of each group of M (Sun et al., arXiv 2306.11695, equation 1)."""
    return _at_once(w, np.abs(w) * np.sqrt(sum_sq), target, "row", nearness)


def _at_once(w: Matrix, scores: Matrix, target: Target, group: str, nearness: float) -> Pruned:
    choice = Choice(w.shape, nearness)
    for place, count in _groups(w.shape, target, group):
        choice.drop(scores[place], place, count)
    return Pruned(choice.keep, w * choice.keep, choice.gap, choice.near)


def _groups(shape: tuple[int, ...], target: Target, group: str) -> Iterator[tuple[tuple[slice, slice], int]]:
    """Yield where the scores of one group lie, and how many of them leave."""
    rows, columns = shape
    if target.keep_of:
        n, m = target.keep_of
        for row in range(rows):
            for start in range(0, columns - m + 1, m):
                yield (slice(row, row + 1), slice(start, start + m)), m - n
    elif group == "row":
        for row in range(rows):
            yield (slice(row, row + 1), slice(None)), whole_part(columns, target.sparsity)
    else:
        yield (slice(None), slice(None)), whole_part(rows * columns, target.sparsity) + 1


def inverse_factor(hessian: Matrix, damping: float = 0.01) -> Matrix:
    """Return U, upper, of (H + damping * mean diag H * I)^-1 = UᵀU (Frantar and Alistarh, arXiv 2301.00774, section 3)."""
    damped = hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    return np.linalg.cholesky(np.linalg.inv(damped)).T


def sparsegpt(w: Matrix, u: Matrix, target: Target, block: int = 128) -> Pruned:
    """Sweep one linear column by column, the whole rest of the matrix corrected after each (algorithm 1).

    Before each block of columns, or of M, the lowest W^2 / U_jj^2 in it are chosen: over all rows, so many that the count over
    all columns so far is exact.
    """
    w = w.astype(np.float64).copy()
    rows, columns = w.shape
    choice = Choice(w.shape)
    width = target.keep_of[1] if target.keep_of else block
    for j in range(columns):
        if j % width == 0:
            end = min(j + width, columns)
            scores = (w[:, j:end] / np.diag(u)[j:end]) ** 2
            if target.keep_of is None:
                count = whole_part(rows * end, target.sparsity) - whole_part(rows * j, target.sparsity)
                choice.drop(scores, (slice(None), slice(j, end)), count)
            elif end - j == width:
                for row in range(rows):
                    place = slice(row, row + 1), slice(j, end)
                    choice.drop(scores[row : row + 1], place, width - target.keep_of[0])
        error = np.where(choice.keep[:, j], 0.0, w[:, j]) / u[j, j]
        w[:, j + 1 :] -= np.outer(error, u[j, j + 1 :])
    return Pruned(choice.keep, w * choice.keep, choice.gap, choice.near)
