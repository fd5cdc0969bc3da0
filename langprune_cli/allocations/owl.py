"""OWL: blocks with more outliers among their Wanda scores keep more weights (Yin et al., arXiv 2310.05175)."""

import math
from collections.abc import Sequence

from langprune_cli.allocations.allocation import Allocation, Prune, fit, unit_range
from langprune_cli.numerics.site import Site

_M = 5.0  # an outlier is a score above this many times the mean (the published scripts)
_LAMBDA = 0.08  # half of the range of keep-rates (the published scripts and the code's default)


def measure(sites: Sequence[Site], prune: Prune) -> list[float]:  # noqa: ARG001 - what an allocation is called with
    """Return the share of the block's scores |W_ij| * sqrt(sum of x_j^2 / windows) above M x their mean.

    The mean is over all scores of the block's linears together, as in the published code. Raises ValueError for a site without
    column norms.
    """
    norms = [(site.norms.sum_sq / site.norms.windows).sqrt() for site in sites]  # float64 [i] each
    # Two passes over the weights, to hold one site's scores at a time; the first needs only column sums.
    sums = [
        float(site.weight.abs().sum(dim=0, dtype=norm.dtype) @ norm) for site, norm in zip(sites, norms, strict=True)
    ]
    count = sum(site.weight.numel() for site in sites)
    if not count:
        return []
    threshold = _M * math.fsum(sums) / count
    outliers = sum(
        int((site.weight.abs() * norm.float() > threshold).sum()) for site, norm in zip(sites, norms, strict=True)
    )
    return [outliers / count if math.isfinite(threshold) else math.nan]


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:
    """Return sparsities with keep-rates proportional to the shares of outliers, rescaled to a range of 2 lambda.

    The mean, weighted by size, is `total` (the published code does not weight, as its blocks have one size). Where a sparsity
    would fall outside of 0..1, the others change instead. Raises LangpruneError for shares that are not finite.
    """
    return fit([-2 * _LAMBDA * each for each in unit_range(measures)], sizes, total)


ALLOCATION = Allocation("owl", "norms", "https://arxiv.org/abs/2310.05175", measure, spread)
