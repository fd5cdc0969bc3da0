"""SparseSwaps: swap kept and pruned weights while that lowers a row's output error (arXiv 2512.10922)."""

from torch import Tensor

from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site
from langprune_cli.refinements.refinement import Refinement
from langprune_cli.solvers.swaps import swap


def refine(
    site: Site,
    keep: Tensor,  # bool [r, i]
    pattern: Pattern,
) -> Tensor:  # bool [r, i]
    """Return a mask that no swap in a row, or for N:M in a group, improves, with the weights unchanged.

    A later update starts from the better mask. The Hessian is not damped, as nothing is inverted. Raises ValueError if the site
    has no Hessian.
    """
    return swap(site.weight, site.hessian.to(site.weight.dtype), keep, pattern.m)


REFINEMENT = Refinement("sparseswaps", "hessian", "https://arxiv.org/abs/2512.10922", refine)
