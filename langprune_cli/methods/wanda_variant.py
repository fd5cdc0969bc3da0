"""Wanda's variant: each row loses the same share of its summed importance, not the same number of weights.

The published code bisects one alpha per layer and prunes the weights whose ascending cumulative score is at most alpha times
their row's sum, until the sparsity is right (to 0.001). A weight is pruned exactly if its cumulative share is at most alpha. So
the share itself serves as a score, compared over the whole layer, without bisection.
"""

import torch
from torch import Tensor

from langprune_cli.methods import wanda
from langprune_cli.methods.method import Method
from langprune_cli.numerics.site import Site


def score(
    w: Tensor,  # [o, i]
    site: Site,
) -> Tensor:  # float32 [o, i]
    """Return each weight's cumulative share: its own and all lower Wanda scores of its row, over the row's sum."""
    ordered, order = wanda.score(w, site).sort(dim=1, stable=True)
    # float64: a float32 running sum over 10^4 columns would give different neighbours equal scores.
    running = ordered.double().cumsum(dim=1)
    share = (running / running[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)).float()
    return torch.empty_like(share).scatter_(1, order, share)


METHOD = Method("wanda-variant", "norms", "layer", "exact", "https://arxiv.org/abs/2306.11695", score)
