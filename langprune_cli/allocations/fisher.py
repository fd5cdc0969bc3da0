"""Fisher: linears keep more weights where pruning moves the next-token distribution further from the dense model's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from langprune_cli.allocations.allocation import (
    Allocation,
    Trials,
    cheapest,
    grid_around,
    power_laws,
    require_finite,
)
from langprune_cli.methods.wanda import score
from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.numerics.site import Site
from langprune_cli.solvers.conjugate_gradient import least_squares

# Divergences grow like power laws of the sparsity; they are measured at these.
_SPARSITIES = (0.3, 0.5, 0.7, 0.85)
_STEPS_OF_TRIALS = 8  # of least squares
# The largest distance of a linear's sparsity from the total: sums of divergences, each to second order, hold less further away.
_FARTHEST = 0.4
_STEPS = 160  # of that range: half a percent of a linear at a time
_LEAST = 1e-9  # nats; less is rounding


def prune(site: Site, sparsity: float) -> Tensor:  # float32 [r, i]
    """Return the weights of a site pruned by Wanda's scores and then fitted in a few steps, whatever the mask will be made by.

    Without the fit, weights that others can make up for would seem to be worth most.
    """
    pattern = Pattern(sparsity, exact=True)
    scores = site.split(score(site.weight, site))
    return least_squares(
        site, torch.cat([keep_mask(each, pattern, group="layer") for each in scores]), _STEPS_OF_TRIALS
    )


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:
    """Return the sparsities within `_FARTHEST` of `total` with the least sum of divergences.

    Raises LangpruneError for divergences that are not finite.
    """
    require_finite(measures)
    grid = grid_around(total, _FARTHEST, _STEPS)
    return cheapest(
        [power_laws(_SPARSITIES, nats, grid, _LEAST) if nats else None for nats in measures], sizes, grid, total
    )


ALLOCATION = Allocation(
    "fisher", "hessian", "https://arxiv.org/abs/1412.1193", None, spread, Trials(_SPARSITIES, prune, _STEPS_OF_TRIALS)
)
