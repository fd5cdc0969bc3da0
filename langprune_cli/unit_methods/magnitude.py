"""Magnitude: removes the units with the smallest weights (Li et al., arXiv 1608.08710, section 3.1)."""

import torch
from torch import Tensor

from langprune_cli.numerics.units import UnitSite
from langprune_cli.unit_methods.method import UnitMethod, by_score


def score(site: UnitSite) -> Tensor:  # float64 [units]
    """Return the norm of all weights of each unit: the reader's columns and the writers' rows."""
    squares = [site.summed(site.site.weight.double().square().sum(dim=0))]
    squares += [writer.double().square().flatten(1).sum(dim=1) for writer in site.writers]
    return torch.stack(squares).sum(dim=0).sqrt()


METHOD = UnitMethod("magnitude", "nothing", "https://arxiv.org/abs/1608.08710", by_score(score), "none")
