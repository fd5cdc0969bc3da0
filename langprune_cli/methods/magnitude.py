"""Magnitude pruning: remove the smallest weights of a layer (Han et al., arXiv 1506.02626, section 3)."""

from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.numerics.site import Site


def score(
    w: Tensor,  # [o, i]
    _site: Site,
) -> Tensor:  # float32 [o, i]
    """Return |W|."""
    return w.float().abs()


# A threshold over the layer: bf16 weights have few distinct magnitudes, and the published code prunes all weights equal to the
# threshold.
METHOD = Method("magnitude", "nothing", "layer", "together", "https://arxiv.org/abs/1506.02626", score, by_rows=True)
