"""Wanda: weight magnitude times the norm of its input (Sun et al., arXiv 2306.11695, section 3)."""

from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.numerics.moments import column_norms
from langprune_cli.numerics.site import Site


def score(
    w: Tensor,  # [o, i]
    site: Site,
) -> Tensor:  # float32 [o, i]
    """Return |W_ij| * ||x_j||; the norm is the root of the sum of squares over windows (equation 1)."""
    return w.float().abs().mul_(column_norms(site.norms.sum_sq, site.norms.windows))


METHOD = Method("wanda", "norms", "row", "exact", "https://arxiv.org/abs/2306.11695", score, by_rows=True)
