"""ADMM: masks that least squares and sparsity agree on, with the best weights for them (Boža, arXiv 2401.02938)."""

from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.methods.wanda import score
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site, Solution
from langprune_cli.solvers.admm import admm_mask
from langprune_cli.solvers.conjugate_gradient import least_squares


def solve(site: Site, pattern: Pattern) -> Solution:
    """Return the mask, with the weights of the update `pcg`."""
    keep: Tensor = admm_mask(site, pattern)
    return Solution(keep, least_squares(site, keep))


# The first step compares Wanda's scores: weights times the norms of their inputs.
METHOD = Method(
    "admm",
    "hessian",
    "layer",
    "exact",
    "https://arxiv.org/abs/2401.02938",
    score,
    solve,
    update="pcg",
    propagation="corrected",
)
