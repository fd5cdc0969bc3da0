"""Exact least squares for masks that remove whole input columns, as structured ones do (OSSCAR, arXiv 2403.12983, section 3)."""

from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.site import Site, Solution
from langprune_cli.solvers.osscar import least_squares
from langprune_cli.updates.update import Update


def update(
    site: Site,
    keep: Tensor,  # bool [r, i], equal rows
) -> Solution:
    """Return the kept columns' weights of least damped error; raises LangpruneError if rows of `keep` differ."""
    if not bool((keep == keep[:1]).all()):
        raise LangpruneError(
            "--update least-squares needs a mask that removes whole input columns, and the rows of this one differ: use "
            "--update pcg"
        )
    return Solution(keep, least_squares(site.weight, site.hessian, site.damping, keep[0]))


UPDATE = Update("least-squares", "hessian", "https://arxiv.org/abs/2403.12983", update)
