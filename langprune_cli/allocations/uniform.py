"""The same sparsity for every block."""

from collections.abc import Sequence

from langprune_cli.allocations.allocation import Allocation, Prune
from langprune_cli.numerics.site import Site


def measure(sites: Sequence[Site], prune: Prune) -> list[float]:  # noqa: ARG001 - what an allocation is called with
    """Return no figures: uniform sparsity needs none."""
    return []


def spread(measures: Sequence[Sequence[float]], sizes: Sequence[int], total: float) -> list[float]:  # noqa: ARG001
    """Return `total` for every block."""
    return [total] * len(sizes)


ALLOCATION = Allocation("uniform", "nothing", "https://arxiv.org/abs/2306.11695", measure, spread)
