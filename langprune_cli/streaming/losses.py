"""Losses of windows from their logits: for `eval`, and for the search of blocks to prune."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from langprune_cli.numerics.nats import window_nats
from langprune_cli.streaming.walk import HiddenStates


def window_losses(states: HiddenStates) -> list[Tensor]:
    """Return each window's summed loss over its predicted tokens, float64 [b] per micro-batch.

    The hidden states must be the last block's output.
    """
    return summed_losses(states.ids, states.logits())


def summed_losses(
    ids: Sequence[Tensor],  # int64 [b, t] per micro-batch
    pieces: Iterable[tuple[int, int, Tensor]],  # (micro-batch, first position, logits [b, p, vocabulary])
) -> list[Tensor]:
    """Return each window's summed loss over its predicted tokens, float64 [b] per micro-batch."""
    batches = [torch.zeros(each.shape[0], dtype=torch.float64) for each in ids]
    for number, start, logits in pieces:
        targets = ids[number][:, start + 1 : start + 1 + logits.shape[1]].to(logits.device)
        if targets.shape[1]:  # the last position of a window has no target
            batches[number] += window_nats(logits[:, : targets.shape[1]], targets).cpu()
    return batches
