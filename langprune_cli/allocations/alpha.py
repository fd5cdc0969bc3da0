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

# Sparsities go from (1 - epsilon) to (1 + epsilon) times one number. epsilon is the paper's tau; this is the published code's
# default, and its value for Wanda on Llama-2-7B.
_EPSILON = 0.3
_BINS = 100  # of the histogram whose peak limits the start of the tail
_FLAT = 1e-9  # a spectrum whose logarithms span less than this is one eigenvalue up to rounding
_PAST_PEAK = 1.5  # the largest start of the tail, as a multiple of the peak


def measure(sites: Sequence[Site], prune: Prune) -> list[float]:  # noqa: ARG001 - what an allocation is called with
    """Return the mean tail exponent (PL_Alpha_Hill) of the spectra of the block's linears.

    Each linear counts once, whatever its size, as in the published code. Linears without a spectrum to fit (all zero, or one
    repeated eigenvalue) are left out.
    """
    exponents = [tail_exponent(eigenvalues(linear)) for site in sites for linear in site.split(site.weight)]
    found = [each for each in exponents if each is not None]
    return [math.fsum(found) / len(found)] if found else []


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:
    """Return eta x (1 - epsilon .. 1 + epsilon), linear in the exponent, with the eta for `total` (section 3.2).

    Lighter tails, with larger exponents, get more sparsity. Where eta x (1 + epsilon) would come too near to 1 (the published
    code would remove a whole block), other blocks lose more instead. Raises LangpruneError for exponents that are not finite.
    """
    factors = [1 - _EPSILON + 2 * _EPSILON * each for each in unit_range(measures)]
    weighted = math.fsum(factor * size for factor, size in zip(factors, sizes, strict=True))
    eta = total * sum(sizes) / weighted if weighted else total
    return fit([eta * factor for factor in factors], sizes, total)


def eigenvalues(
    w: Tensor,  # float32 [o, i]
) -> NDArray[np.float64]:  # [min(o, i)] or fewer
    """Return the squared singular values of `w` in ascending order, without those that are zero up to rounding.

    They are the eigenvalues of the smaller of W Wᵀ and WᵀW, which is twice as fast as singular values; in float64, since
    squaring doubles the digits that small ones need. Raises LangpruneError for weights that are not finite.
    """
    wide = w.double()
    gram = wide @ wide.T if w.shape[0] <= w.shape[1] else wide.T @ wide
    if not bool(gram.isfinite().all()):
        raise LangpruneError("a weight is infinite or NaN: use another model, or another revision of it")
    values: NDArray[np.float64] = torch.linalg.eigvalsh(gram).cpu().numpy()
    nonzero = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.asarray(values[nonzero], dtype=np.float64)


def tail_exponent(
    spectrum: NDArray[np.float64],  # [n], positive, ascending
) -> float | None:
    """Return the exponent alpha of the power law that best fits the spectrum's tail, None if nothing can be fitted.

    For a tail that begins at the eigenvalue e_i, Hill's estimator gives alpha = 1 + k / sum(ln(e_j / e_i)) over its k members.
    The chosen start has the least Kolmogorov-Smirnov distance between the members and that law (`alpha_peak`, the published
    code's default), and is at most 1.5 times the peak of the histogram of log10 e. The published code also has a lower limit,
    but compares an eigenvalue with a logarithm: while the peak is below 1, it excludes nothing. It is left out here, so
    that alpha does not depend on the weights' scale.
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
