"""Magnitude pruning of whole units: those of the smallest weights leave (Li et al., arXiv 1608.08710, section 3.1)."""

import torch
from torch import Tensor

from langprune_cli.numerics.units import UnitSite, highest
from langprune_cli.unit_methods.method import UnitMethod


def score(site: UnitSite) -> Tensor:  # float64 [units]
    """Return the norm of all weights of each unit: the reader's columns and all that writes it."""
    squares = [site.summed(site.site.weight.double().square().sum(dim=0))]
    squares += [writer.double().square().flatten(1).sum(dim=1) for writer in site.writers]
    return torch.stack(squares).sum(dim=0).sqrt()


def choose(
    site: UnitSite,
    stay: int,
) -> Tensor:  # bool [units]
    """Return the units with the `stay` highest scores; raises ValueError for an impossible `stay`."""
    site.check_stay(stay)
    return highest(score(site), stay)


METHOD = UnitMethod("magnitude", "nothing", "https://arxiv.org/abs/1608.08710", choose, "none")
