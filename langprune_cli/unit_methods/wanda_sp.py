"""Wanda-sp: Wanda for whole units, the baseline of FLAP (An et al., arXiv 2312.11983, section 4; Sun et al., 2306.11695)."""

from torch import Tensor

from langprune_cli.numerics.moments import column_norms
from langprune_cli.numerics.units import UnitSite
from langprune_cli.unit_methods.method import UnitMethod, by_score


def score(site: UnitSite) -> Tensor:  # float64 [units]
    """Return the norm of each input column times the norm of the weights that read it, summed over a unit's columns."""
    stats = site.site.norms
    norms = column_norms(stats.sum_sq, stats.windows).double()
    return site.summed(norms * site.site.weight.double().norm(dim=0))


METHOD = UnitMethod("wanda-sp", "norms", "https://arxiv.org/abs/2312.11983", by_score(score), "none")
