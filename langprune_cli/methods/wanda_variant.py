"""Wanda's variant: each row loses the same share of its summed importance, not the same number of weights.

The published code bisects one alpha per layer so that the weights whose ascending cumulative score stays within alpha
times their row's sum make up the wanted sparsity (to 0.001). A weight leaves exactly when its own cumulative share is at
most alpha; so the share itself is a score, compared over the whole layer, and no bisection is needed.
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
    """Return, for each weight, the share of its row's summed Wanda scores that it and all lower ones hold."""
    ordered, order = wanda.score(w, site).sort(dim=1, stable=True)
    # float64: a float32 running sum over 10^4 columns would tie neighbours that differ.
    running = ordered.double().cumsum(dim=1)
    share = (running / running[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)).float()
    return torch.empty_like(share).scatter_(1, order, share)


METHOD = Method("wanda-variant", "norms", "layer", "exact", "https://arxiv.org/abs/2306.11695", score)
