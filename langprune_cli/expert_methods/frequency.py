"""Frequency: removes the experts to which the router sends the fewest tokens."""

from torch import Tensor

from langprune_cli.expert_methods.method import ExpertMethod
from langprune_cli.numerics.routing import Routing


def score(routing: Routing) -> Tensor:
    """Return the share of tokens routed to each expert."""
    return routing.tokens.double() / routing.tokens.sum().clamp(min=1)


METHOD = ExpertMethod("frequency", "", score)
