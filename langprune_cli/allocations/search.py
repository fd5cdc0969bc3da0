"""Search: prune each block on trial at a few sparsities, then remove weights where the output error is least.

After Optimal Brain Compression (Frantar and Alistarh, arXiv 2208.11580), which measures the errors of layers at several
sparsities and then chooses for all under a budget. Here blocks take the place of layers, and convex curves that of a dynamic
programme.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langprune_cli.allocations.allocation import (
    Allocation,
    Prune,
    cheapest,
    grid_around,
    power_laws,
    require_finite,
)
from langprune_cli.numerics.gram import output_energy
from langprune_cli.numerics.site import Site

# Every block is pruned once at each of these; the errors at 0 and 1 are known. Power laws interpolate well: for Gaussian and
# Laplacian weights pruned by magnitude, they are right to 4% from 0.2 to 0.9.
_TRIALS = (0.2, 0.4, 0.6, 0.75, 0.9)

# The largest distance of a block's sparsity from the total. Errors are measured on inputs of the dense model and added as if
# no block saw another's error, which holds less and less away from the mean. OWL stays within 0.16, AlphaPruning within about
# 0.2 at a total of 0.7.
_FARTHEST = 0.2
_STEPS = 100  # of that range: 0.4% of a block at a time
_LEAST_ERROR = 1e-9  # smaller errors are rounding, and a power law through zero has no exponent


def measure(sites: Sequence[Site], prune: Prune) -> list[float]:
    """Return, for each sparsity of `_TRIALS`, the block's output error relative to its output.

    That is the sum over sites of tr(D H Dᵀ), with D = pruned minus dense weights, over the sum of tr(W H Wᵀ): the squared error
    of the linears' outputs on the calibration text, over their squared outputs. 0 if all outputs are zero. Raises ValueError
    for a site without a Hessian.
    """
    outputs = math.fsum(output_energy(site.weight, site.hessian) for site in sites)
    if outputs == 0:
        return [0.0 for _ in _TRIALS] if sites else []
    errors: list[list[float]] = [[] for _ in _TRIALS]
    for site in sites:  # site by site: all trials share its factor
        for found, sparsity in zip(errors, _TRIALS, strict=True):
            found.append(output_energy(prune(site, sparsity) - site.weight, site.hessian))
    return [math.fsum(found) / outputs for found in errors]


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:
    """Return the sparsities within `_FARTHEST` of `total` with the least sum of relative errors.

    Raises LangpruneError for errors that are not finite.
    """
    require_finite(measures)
    grid = grid_around(total, _FARTHEST, _STEPS)
    return cheapest([error_curve(errors, grid) if errors else None for errors in measures], sizes, grid, total)


def error_curve(
    errors: Sequence[float],  # at `_TRIALS`
    sparsities: NDArray[np.float64],  # [n]
) -> NDArray[np.float64]:  # [n]
    """Return a block's relative error at other sparsities: power laws through the trials, rising to 1 at 1."""
    return power_laws([*_TRIALS, 1.0], np.clip([*errors, 1.0], _LEAST_ERROR, 1.0).tolist(), sparsities, _LEAST_ERROR)


ALLOCATION = Allocation("search", "hessian", "https://arxiv.org/abs/2208.11580", measure, spread, prunings=len(_TRIALS))
