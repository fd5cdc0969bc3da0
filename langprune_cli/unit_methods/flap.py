"""FLAP: removes the units whose inputs vary least, weighted by the reader's weights (An et al., arXiv 2312.11983)."""

from torch import Tensor

from langprune_cli.numerics.units import UnitSite
from langprune_cli.unit_methods.method import UnitMethod, by_score


def score(site: UnitSite) -> Tensor:  # float64 [units]
    """Return the variance of each input column over tokens times ||W_:j||^2 (section 3.2, WIFV), summed over a unit's columns.

    The variance is the mean square minus the squared mean, in float64 because the difference may be small.
    """
    stats = site.site.norms
    tokens = max(stats.tokens, 1)
    variance = (stats.sum_sq / tokens - (stats.sum_x / tokens).square()).clamp_min(0.0)
    return site.summed(variance * site.site.weight.double().square().sum(dim=0))


METHOD = UnitMethod("flap", "norms", "https://arxiv.org/abs/2312.11983", by_score(score), "none")
