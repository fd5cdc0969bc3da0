"""Search: prune each block on trial at a few sparsities, and remove weights where that costs least output error.

After Optimal Brain Compression (Frantar and Alistarh, arXiv 2208.11580): errors measured at several sparsities, there of
layers and here of blocks, then one choice for all under a budget. Convex curves need no dynamic programme for that.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langprune_cli.allocations.allocation import Allocation, Prune, fit, most_sparsity, require_finite
from langprune_cli.numerics.gram import output_energy
from langprune_cli.numerics.site import Site

# Every block is pruned once at each of these. The error at 0 and at 1 is known without. Between them power laws hold
# well: they give the curves of Gaussian and of Laplacian weights, pruned by magnitude, to 4% anywhere from 0.2 to 0.9.
_TRIALS = (0.2, 0.4, 0.6, 0.75, 0.9)

# How far a block's sparsity may be from the total. The errors were measured on inputs of the dense model, and are added
# as if no block saw another's error: true near the mean, less so the further a block is from it. OWL stays within 0.16,
# AlphaPruning within about 0.2 at a total of 0.7.
_FARTHEST = 0.2
_STEPS = 100  # in which that range is handed out: 0.4% of a block at a time
_LEAST_ERROR = 1e-9  # below it an error is rounding, and a power law through zero has no exponent


def measure(sites: Sequence[Site], prune: Prune) -> list[float]:
    """Return, for each sparsity of `_TRIALS`, the block's output error relative to its output.

    That is the sum over sites of tr(D H Dᵀ), D = the pruned weights minus the dense ones, over the sum of tr(W H Wᵀ): the
    share of the linears' squared outputs on the calibration text that goes wrong. 0 where the outputs are all zero.
    Raises ValueError for a site without a Hessian.
    """
    outputs = math.fsum(output_energy(site.weight, site.hessian) for site in sites)
    if outputs == 0:
        return [0.0 for _ in _TRIALS] if sites else []
    errors: list[list[float]] = [[] for _ in _TRIALS]
    for site in sites:  # one site after the other: its factor, which all trials share, is made once
        for found, sparsity in zip(errors, _TRIALS, strict=True):
            found.append(output_energy(prune(site, sparsity) - site.weight, site.hessian))
    return [math.fsum(found) / outputs for found in errors]


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:
    """Return the sparsities within `_FARTHEST` of `total` whose relative errors add to the least.

    All blocks begin at the lower limit; then the cheapest step, by error per weight removed, is taken until `total` is
    reached. That greedy choice is the optimum since the curves are made convex first: no step is dearer than the next
    one of its block. Raises LangpruneError for errors that are not finite.
    """
    require_finite(measures)
    low, high = max(0.0, total - _FARTHEST), min(most_sparsity(total), total + _FARTHEST)
    width = (high - low) / _STEPS
    blocks = [block for block, (errors, size) in enumerate(zip(measures, sizes, strict=True)) if errors and size]
    chosen = [low if block in blocks else total for block in range(len(sizes))]
    # Of equal prices the earlier step is taken first, so that like blocks rise together, and then the later block.
    steps = [
        (price / sizes[block], step, -block)
        for block in blocks
        for step, price in enumerate(_convex(np.diff(error_curve(measures[block], np.linspace(low, high, _STEPS + 1)))))
    ]
    budget = (total - low) * sum(sizes[block] for block in blocks)
    for _, _, negative in sorted(steps):
        if budget <= 0:
            break
        size = sizes[-negative]
        taken = min(width, budget / size)
        chosen[-negative] += taken
        budget -= taken * size
    return fit(chosen, sizes, total)  # what rounding has left over


def error_curve(
    errors: Sequence[float],  # at `_TRIALS`
    sparsities: NDArray[np.float64],  # [n]
) -> NDArray[np.float64]:  # [n]
    """Return a block's relative error at other sparsities: power laws through what was measured, rising to 1 at 1.

    Below the first trial the law of the first two goes on to 0 at 0. Errors that fall, as noise may make them, are
    levelled up first: whoever removes more never errs less.
    """
    trials = np.log([*_TRIALS, 1.0])
    rising = np.log(np.maximum.accumulate(np.clip([*errors, 1.0], _LEAST_ERROR, 1.0)))
    exponent = max(1.0, (rising[1] - rising[0]) / (trials[1] - trials[0]))
    at = np.log(np.maximum(sparsities, 1e-12))
    below = rising[0] + exponent * (at - trials[0])
    return np.exp(np.where(at < trials[0], below, np.interp(at, trials, rising)))


def _convex(
    slopes: NDArray[np.float64],  # [n], of steps of one width
) -> list[float]:
    """Return the slopes of the largest convex curve below: where slopes fall, runs are replaced by their mean."""
    runs: list[tuple[float, int]] = []  # (sum, how many)
    for slope in slopes.tolist():
        run = (slope, 1)
        while runs and runs[-1][0] / runs[-1][1] > run[0] / run[1]:
            before = runs.pop()
            run = (before[0] + run[0], before[1] + run[1])
        runs.append(run)
    return [total / count for total, count in runs for _ in range(count)]


ALLOCATION = Allocation("search", "hessian", "https://arxiv.org/abs/2208.11580", measure, spread)
