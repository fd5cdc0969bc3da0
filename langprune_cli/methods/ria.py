"""RIA: relative importance of a weight in its row and column, times the input's activation norm to the power 1/2.

Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models" (ICLR 2024).
"""

import torch
from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.numerics.moments import column_norms
from langprune_cli.numerics.site import Site


def score(
    w: Tensor,  # [o, i]
    site: Site,
) -> Tensor:  # float32 [o, i]
    """Return (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||x_j||^0.5 (sections 3.1 and 3.2)."""
    size = w.float().abs()
    tiny = torch.finfo(torch.float32).tiny  # an all-zero row or column scores 0, not NaN
    relative = size / size.sum(dim=0).clamp_min(tiny) + size / size.sum(dim=1, keepdim=True).clamp_min(tiny)
    return relative * column_norms(site.norms.sum_sq, site.norms.windows).sqrt()


METHOD = Method("ria", "norms", "row", "exact", "https://openreview.net/forum?id=Tr0lPx9woF", score)
