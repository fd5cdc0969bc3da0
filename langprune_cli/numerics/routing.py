"""Sums over the tokens that a router sends to each expert of a block."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """Sums of one block's experts; those of several texts add up."""

    tokens: Tensor  # int64 [e], tokens routed to each expert
    outputs: Tensor  # float64 [e], sum over these tokens of router weight x norm of the expert's output

    @classmethod
    def zeros(cls, experts: int) -> "Routing":
        """Return the sums of no text."""
        return cls(torch.zeros(experts, dtype=torch.int64), torch.zeros(experts, dtype=torch.float64))

    def add(
        self,
        expert: int,
        outputs: Tensor,  # [t, h]
        weights: Tensor,  # [t], of the router
    ) -> None:
        """Add tokens that were routed to an expert."""
        self.tokens[expert] += len(outputs)
        norms = outputs.double().norm(dim=-1)  # float64: a sum of millions of terms
        self.outputs[expert] += (norms * weights.double()).sum().cpu()
