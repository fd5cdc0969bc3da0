"""Combines several keep masks of one linear: by votes, and by ranks of importance to reach an exact count."""

from collections.abc import Sequence

import torch
from torch import Tensor

from langprune_cli.numerics.overlap import average_ranks
from langprune_cli.numerics.patterns import Group


def votes(
    masks: Sequence[Tensor],  # bool [o, i]
) -> Tensor:  # int64 [o, i]
    """Return how many masks keep each weight."""
    return torch.stack(list(masks)).sum(dim=0)


def normalised_ranks(
    score: Tensor,  # [o, i]
    group: Group,
) -> Tensor:  # float64 [o, i], 0..1, 1 not included
    """Return the share of its row, or of the whole linear, that scores lower than each weight; ties count half."""
    flat = score if group == "row" else score.reshape(1, -1)
    return (average_ranks(flat) / flat.shape[1]).view(score.shape)


def consensus(
    kept_by: Tensor,  # int64 [o, i], votes
    least: int,
    masks: int,
    *,
    importance: Tensor | None = None,  # float64 [o, i], 0..1, 1 not included: the mean of the masks' own ranks
    size: Tensor | None = None,  # float64 [o, i], 0..1, 1 not included: ranks of magnitude
) -> Tensor:  # float64 [o, i]
    """Return a score that ranks weights with at least `least` votes above all others.

    Within both groups the more important rank higher. If the masks' scores are unknown, weights with more votes do, and of
    ties the larger.
    """
    reached = (kept_by >= least).double()
    if importance is not None:
        return reached + importance
    if size is None:
        raise ValueError("either importance or size is needed")
    return reached + (kept_by + size) / (masks + 1)
