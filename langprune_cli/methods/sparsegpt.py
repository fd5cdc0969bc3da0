"""SparseGPT: prune weights for which those to their right can compensate (Frantar and Alistarh, arXiv 2301.00774)."""

import torch
from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.numerics.factor import dead_columns
from langprune_cli.numerics.patterns import Pattern, choose_in_steps
from langprune_cli.numerics.site import Site, Solution
from langprune_cli.solvers.sweep import ColumnChooser, sweep

_BLOCK = 128  # columns per choice of an unstructured mask (section 3.3)


def score(
    w: Tensor,  # [o, i]
    site: Site,
) -> Tensor:  # float32 [o, i]
    """Return W_ij^2 / U_jj^2 of the dense weights; a weight whose inputs were all zero scores 0."""
    scores = w.float().square() * site.factor.pivots
    return scores.masked_fill_(dead_columns(site.hessian), 0.0)


def solve(site: Site, pattern: Pattern) -> Solution:
    """Choose and update in one sweep: each choice sees the corrections from the choices to its left (algorithm 1).

    Each linear of the site keeps its share separately: of 128 columns at a time, or N of every M.
    """
    dead = dead_columns(site.hessian)
    some_dead = bool(dead.any())

    def choose(scores: Tensor, first: int) -> Tensor:
        if some_dead:
            scores = scores.masked_fill(dead[first : first + scores.shape[1]], 0.0)
        if pattern.keep_of:  # groups of M lie within a row, so linears need no separation
            return choose_in_steps(scores, pattern, first)
        return torch.cat([choose_in_steps(part, pattern, first) for part in site.split(scores)])

    width = pattern.keep_of[1] if pattern.keep_of else _BLOCK
    return sweep(site.weight, site.factor, ColumnChooser(width, choose))


METHOD = Method(
    "sparsegpt", "hessian", "row", "exact", "https://arxiv.org/abs/2301.00774", score, solve, update="sparsegpt"
)
