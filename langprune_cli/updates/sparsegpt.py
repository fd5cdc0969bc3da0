"""SparseGPT's update on a fixed mask: weights to the right compensate for each pruned one (arXiv 2301.00774)."""

from torch import Tensor

from langprune_cli.numerics.site import Site, Solution
from langprune_cli.solvers.sweep import sweep
from langprune_cli.updates.update import Update


def update(
    site: Site,
    keep: Tensor,  # bool [r, i], of any origin
) -> Solution:
    """Return the weights after a sweep with this mask; for SparseGPT's own mask, the same weights as its sweep."""
    return sweep(site.weight, site.factor, keep)


UPDATE = Update("sparsegpt", "hessian", "https://arxiv.org/abs/2301.00774", update)
