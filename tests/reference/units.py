"""Structured pruning by its definitions: every subset by itself, float64, nothing shared with the product."""

import itertools

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def damped(hessian: Matrix, damping: float) -> Matrix:
    """Return H with the damping on its diagonal, that of dead columns being the mean of the others."""
    diagonal = np.diag(hessian)
    mean = diagonal[diagonal != 0].mean()
    return hessian + np.diag(np.where(diagonal == 0, mean, 0.0) + damping * mean)


def error(w: Matrix, inverse: Matrix, gone: list[int]) -> float:
    """Return tr(W_S ((H^-1)_SS)^-1 W_Sᵀ)."""
    left = w[:, gone]
    return float(np.trace(left @ np.linalg.solve(inverse[np.ix_(gone, gone)], left.T)))


def columns_of(units: list[int], size: int) -> list[int]:
    """Return the input columns of some units."""
    return [unit * size + place for unit in units for place in range(size)]


def best(w: Matrix, inverse: Matrix, size: int, stay: int) -> float:
    """Return the least error of all ways to keep `stay` units."""
    units = w.shape[1] // size
    removals = itertools.combinations(range(units), units - stay)
    return min(error(w, inverse, columns_of(list(removal), size)) for removal in removals)


def eliminated(w: Matrix, inverse: Matrix, size: int, stay: int) -> NDArray[np.bool_]:
    """Remove one unit after another, each time trying all of them, each by its own solution."""
    keep = np.ones(w.shape[1] // size, dtype=bool)
    while keep.sum() > stay:
        gone = list(np.flatnonzero(~keep))
        costs = {unit: error(w, inverse, columns_of([*gone, unit], size)) for unit in np.flatnonzero(keep)}
        keep[min(costs, key=lambda unit: costs[unit])] = False
    return keep


def eliminated_by_downdates(w: Matrix, inverse: Matrix, stay: int) -> NDArray[np.bool_]:
    """Remove one column after another at ||w_j||^2 / (H^-1)_jj, and take each out of both matrices at once."""
    w, inverse = w.copy(), inverse.copy()
    keep = np.ones(w.shape[1], dtype=bool)
    while keep.sum() > stay:
        costs = np.full(len(keep), np.inf)
        costs[keep] = (w[:, keep] ** 2).sum(0) / np.diag(inverse)[keep]
        j = int(costs.argmin())
        row = inverse[j] / inverse[j, j]
        w -= np.outer(w[:, j], row)
        inverse -= np.outer(inverse[:, j], row)
        keep[j] = False
    return keep


def flap(w: Matrix, x: Matrix, size: int) -> list[float]:
    """Return, for each unit, the sum over its columns of the inputs' variance times the squared norm of W's column."""
    scores = [float(np.var(x[:, j]) * (w[:, j] ** 2).sum()) for j in range(w.shape[1])]
    return [sum(scores[u : u + size]) for u in range(0, len(scores), size)]


def wanda_sp(w: Matrix, x: Matrix, windows: int, size: int) -> list[float]:
    """Return, for each unit, the sum over its columns of ||x_j|| ||W_:j||."""
    scores = [float(np.sqrt((x[:, j] ** 2).sum() / windows) * np.sqrt((w[:, j] ** 2).sum())) for j in range(w.shape[1])]
    return [sum(scores[u : u + size]) for u in range(0, len(scores), size)]


def magnitude(w: Matrix, writers: list[Matrix], size: int) -> list[float]:
    """Return the norm of all weights that read or write each unit."""
    parts = [[w[:, u * size : (u + 1) * size], *[writer[u] for writer in writers]] for u in range(w.shape[1] // size)]
    return [float(np.sqrt(sum((part**2).sum() for part in unit))) for unit in parts]
