"""No update: kept weights do not change, as in Wanda and magnitude pruning."""

from torch import Tensor

from langprune_cli.numerics.site import Site, Solution
from langprune_cli.numerics.values import kept
from langprune_cli.updates.update import Update


def update(
    site: Site,
    keep: Tensor,  # bool [r, i]
) -> Solution:
    """Return the dense weights with +0.0 where `keep` is False."""
    return Solution(keep, kept(site.weight, keep))


UPDATE = Update("none", "nothing", "", update)
