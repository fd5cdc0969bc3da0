"""SparseGPT: remove what the weights to its right can make up for (Frantar and Alistarh, arXiv 2301.00774)."""

import torch
from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.numerics.factor import dead_columns
from langprune_cli.numerics.patterns import Pattern, choose_in_steps
from langprune_cli.numerics.site import Site, Solution
from langprune_cli.solvers.sweep import Chooser, sweep

_BLOCK = 128  # columns among which an unstructured mask is chosen at once (section 3.3)


def score(
    w: Tensor,  # [o, i]
    site: Site,
) -> Tensor:  # float32 [o, i]
    """Return W_ij^2 / U_jj^2 before any weight has left; a weight that only ever read zeros scores 0."""
    scores = w.float().square() * site.factor.pivots
    return scores.masked_fill_(dead_columns(site.hessian), 0.0)


def solve(site: Site, pattern: Pattern) -> Solution:
    """Choose and update in one sweep: each choice sees what the ones to its left have done to its columns (algorithm 1).

    Every linear of the site keeps its own count: of 128 columns at a time, or N of every M.
    """
    dead = dead_columns(site.hessian)
    some_dead = bool(dead.any())

    def choose(scores: Tensor, first: int) -> Tensor:
        if some_dead:
            scores = scores.masked_fill(dead[first : first + scores.shape[1]], 0.0)
        if pattern.keep_of:  # groups of M do not care whose rows they are in
            return choose_in_steps(scores, pattern, first)
        return torch.cat([choose_in_steps(part, pattern, first) for part in site.split(scores)])

    width = pattern.keep_of[1] if pattern.keep_of else _BLOCK
    return sweep(site.weight, site.factor, Chooser(width, choose))


METHOD = Method(
    "sparsegpt", "hessian", "row", "exact", "https://arxiv.org/abs/2301.00774", score, solve, update="sparsegpt"
)
