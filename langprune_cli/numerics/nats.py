"""Negative log-likelihood in nats: the sum over predicted tokens, from which ppl and bits per byte both follow."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def window_nats(
    logits: Tensor,  # [b, p, vocabulary], any float dtype
    targets: Tensor,  # int64 [b, p], the token that follows each position
) -> Tensor:  # float64 [b]
    """Return each window's summed loss over these positions.

    Logits are widened to float32 before the softmax, as the published evaluation does; sums over tokens are float64.
    """
    losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets).sum(dim=1, dtype=torch.float64)


def perplexity(nats: float, tokens: int) -> float:
    """Return exp of the mean loss per predicted token; infinity on overflow."""
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Return the summed loss in bits per UTF-8 byte of the predicted text."""
    return nats / math.log(2) / text_bytes
