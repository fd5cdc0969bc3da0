"""REAP: removes the experts that add least to their tokens (Lasby et al., arXiv 2510.13999)."""

from torch import Tensor

from langprune_cli.expert_methods.method import ExpertMethod
from langprune_cli.numerics.routing import Routing


def score(routing: Routing) -> Tensor:
    """Return the mean of router weight x norm of the expert's output, over the tokens routed to it; 0 where there are none.

    REAP (arXiv 2510.13999), the saliency score of an expert.
    """
    return routing.outputs / routing.tokens.clamp(min=1)


METHOD = ExpertMethod("reap", "https://arxiv.org/abs/2510.13999", score)
