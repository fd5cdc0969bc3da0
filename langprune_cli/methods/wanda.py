"""Wanda: weight magnitude times the norm of its input (Sun et al., arXiv 2306.11695, section 3)."""

from torch import Tensor

from langprune_cli.methods.method import Method, SiteStats, need
from langprune_cli.numerics.moments import column_norms


def score(
    w: Tensor,  # [o, i]
    stats: SiteStats | None,
) -> Tensor:  # float32 [o, i]
    """Return |W_ij| * ||x_j||, the norm as the root of the sum of squares over windows (equation 1)."""
    stats = need(stats)
    return w.float().abs() * column_norms(stats.sum_sq, stats.windows)


METHOD = Method("wanda", "norms", "row", "exact", "https://arxiv.org/abs/2306.11695", score)
