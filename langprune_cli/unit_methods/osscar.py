"""OSSCAR: removes the units that least squares on the others replaces best (Meng et al., arXiv 2403.12983)."""

from langprune_cli.solvers.osscar import choose
from langprune_cli.unit_methods.method import UnitMethod

# Backward elimination, then the paper's local search (section 4) by single swaps.
METHOD = UnitMethod("osscar", "hessian", "https://arxiv.org/abs/2403.12983", choose, "least-squares")
