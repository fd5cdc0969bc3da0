"""AlphaPruning: blocks whose spectra have lighter tails are pruned more (Lu et al., arXiv 2410.10912)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langprune_cli.allocations.allocation import Allocation, Prune, fit, unit_range
from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.site import Site

# Sparsities go from (1 - epsilon) to (1 + epsilon) times one number: tau in the paper, epsilon in its code, whose default
# and value for Wanda on Llama-2-7B this is.
_EPSILON = 0.3
_BINS = 100  # of the histogram whose peak limits where the tail may begin
_FLAT = 1e-9  # a spectrum whose logarithms span less than this is one eigenvalue and rounding
_PAST_PEAK = 1.5  # the largest eigenvalue at which the tail may begin, as a multiple of the peak's


def measure(sites: Sequence[Site], prune: Prune) -> list[float]:  # noqa: ARG001 - what an allocation is called with
    """Return the mean, over the block's linears, of the exponent of their spectrum's tail (PL_Alpha_Hill).

    Each linear counts once, whatever its size, as in the published code. Linears without a spectrum to fit (all zero, or
    one eigenvalue repeated) are left out.
    """
    exponents = [tail_exponent(eigenvalues(linear)) for site in sites for linear in site.split(site.weight)]
    found = [each for each in exponents if each is not None]
    return [math.fsum(found) / len(found)] if found else []


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:
    """Return eta x (1 - epsilon .. 1 + epsilon), linear in the exponent, with the eta for `total` (section 3.2).

    Lighter tails, which are larger exponents, mean more sparsity. Where eta x (1 + epsilon) comes too near to 1 (the
    published code would remove a whole block) or past it, the other blocks make up for it. Raises LangpruneError for
    exponents that are not finite.
    """
    factors = [1 - _EPSILON + 2 * _EPSILON * each for each in unit_range(measures)]
    weighted = math.fsum(factor * size for factor, size in zip(factors, sizes, strict=True))
    eta = total * sum(sizes) / weighted if weighted else total
    return fit([eta * factor for factor in factors], sizes, total)


def eigenvalues(
    w: Tensor,  # float32 [o, i]
) -> NDArray[np.float64]:  # [min(o, i)] or fewer
    """Return the squared singular values of `w` in ascending order, without those that are zero but for rounding.

    They are those of the smaller of W Wᵀ and WᵀW: twice as fast as singular values, and in float64, since squaring
    doubles the digits that small ones need. Raises LangpruneError for weights that are not finite.
    """
    wide = w.double()
    gram = wide @ wide.T if w.shape[0] <= w.shape[1] else wide.T @ wide
    if not bool(gram.isfinite().all()):
        raise LangpruneError("a weight is not finite: give a model, or a revision of it, whose weights are all numbers")
    values: NDArray[np.float64] = torch.linalg.eigvalsh(gram).cpu().numpy()
    nonzero = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.asarray(values[nonzero], dtype=np.float64)


def tail_exponent(
    spectrum: NDArray[np.float64],  # [n], positive, ascending
) -> float | None:
    """Return the exponent alpha of the power law that fits the spectrum's tail best, None where nothing can be fitted.

    For a tail that begins at the eigenvalue e_i, alpha = 1 + k / sum(ln(e_j / e_i)) over its k members (Hill's
    estimator); of all beginnings the one is taken with the least Kolmogorov-Smirnov distance between the members and
    that law (`alpha_peak`, the published code's default). A tail begins no later than at 1.5 times the peak of the
    histogram of log10 e. The published code has a lower limit as well, but compares an eigenvalue with a logarithm: as
    long as the peak is below 1 it excludes nothing. It is left out, so that alpha does not depend on the weights' scale.
    """
    logs = np.log(spectrum)
    if len(logs) < 2 or logs[-1] - logs[0] < _FLAT:
        return None
    counts, edges = np.histogram(logs, _BINS)
    latest = edges[counts.argmax()] + math.log(_PAST_PEAK)
    best, exponent = math.inf, None
    for first in range(min(int(np.searchsorted(logs, latest, side="right")), len(logs) - 1)):
        tail = logs[first:] - logs[first]
        if not (length := tail.sum()) > 0:
            break
        slope = len(tail) / length
        distance = np.abs(1 - np.exp(-slope * tail) - np.arange(len(tail)) / len(tail)).max()
        if distance < best:
            best, exponent = float(distance), 1 + float(slope)
    return exponent


ALLOCATION = Allocation("alpha", "nothing", "https://arxiv.org/abs/2410.10912", measure, spread)
