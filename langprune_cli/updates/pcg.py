"""Least squares on a fixed mask by preconditioned conjugate gradient (ALPS, Meng et al., arXiv 2406.07831, section 3.3)."""

from torch import Tensor

from langprune_cli.numerics.site import Site, Solution
from langprune_cli.solvers.conjugate_gradient import least_squares
from langprune_cli.updates.update import Update


def update(
    site: Site,
    keep: Tensor,  # bool [r, i], of any origin
) -> Solution:
    """Return the kept weights with values of nearly the least error; see `least_squares`."""
    return Solution(keep, least_squares(site, keep))


UPDATE = Update("pcg", "hessian", "https://arxiv.org/abs/2406.07831", update)
