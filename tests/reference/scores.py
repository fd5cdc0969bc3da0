"""Scores by their definitions: one weight at a time, float64, nothing shared with the product."""

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def magnitude(w: Matrix) -> Matrix:
    """Return |W|."""
    scores = np.zeros(w.shape)
    for row in range(w.shape[0]):
        for column in range(w.shape[1]):
            scores[row, column] = abs(w[row, column])
    return scores


def wanda(w: Matrix, sum_sq: Matrix, windows: int) -> Matrix:
    """Return |W_ij| * sqrt(sum of x_j squared / windows)."""
    scores = np.zeros(w.shape)
    for row in range(w.shape[0]):
        for column in range(w.shape[1]):
            scores[row, column] = abs(w[row, column]) * math.sqrt(sum_sq[column] / windows)
    return scores


def ria(w: Matrix, sum_sq: Matrix, windows: int) -> Matrix:
    """Return (|W_ij| / its column's sum + |W_ij| / its row's sum) * the input norm to the power 1/2."""
    scores = np.zeros(w.shape)
    for row in range(w.shape[0]):
        for column in range(w.shape[1]):
            size = abs(w[row, column])
            if size == 0:
                continue
            in_column = sum(abs(value) for value in w[:, column])
            in_row = sum(abs(value) for value in w[row, :])
            norm = math.sqrt(sum_sq[column] / windows)
            scores[row, column] = (size / in_column + size / in_row) * norm**0.5
    return scores


def variant_removed(metric: Matrix, alpha: float) -> NDArray[np.bool_]:
    """Return which weights leave at `alpha`: in each row, those up to the last whose ascending running sum fits."""
    removed = np.zeros(metric.shape, dtype=bool)
    for row, scores in enumerate(metric):
        ascending = sorted(scores)
        allowed = alpha * sum(ascending)
        running, threshold = 0.0, -math.inf
        for value in ascending:
            running += value
            if running > allowed:
                break
            threshold = value
        removed[row] = scores <= threshold
    return removed


def variant_by_bisection(metric: Matrix, sparsity: float) -> tuple[NDArray[np.bool_], float]:
    """Return what the published Wanda variant removes, and the alpha where its bisection stops."""
    alpha, low, high = 0.4, 0.0, 0.8
    removed = variant_removed(metric, alpha)
    while abs(removed.mean() - sparsity) > 0.001 and high - low >= 0.001:
        if removed.mean() > sparsity:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        removed = variant_removed(metric, alpha)
    return removed, alpha
