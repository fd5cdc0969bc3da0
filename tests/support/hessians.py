"""What tests of second-order pruning share: correlated inputs, their Hessian and sites made of them."""

import torch
from torch import Tensor

from langprune_cli.numerics.factor import Factor
from langprune_cli.numerics.site import Site, SiteStats


def correlated(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Return inputs [t, i] whose columns depend on one another, as those of a language model do."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.arange(1, width + 1) ** -0.5  # a few directions hold most of the variance
    mixing = torch.randn(width, width, generator=generator)
    return (torch.randn(tokens, width, generator=generator) * strength) @ mixing + 0.2


def site_of(
    rows: tuple[int, ...], x: Tensor, *, damping: float = 0.01, seed: int = 1, weight: Tensor | None = None
) -> Site:
    """Return a site of linears with `rows` rows each, random or given, that read the inputs x [t, i]."""
    generator = torch.Generator().manual_seed(seed)
    if weight is None:
        weight = torch.randn(sum(rows), x.shape[1], generator=generator)
    wide = x.double()
    stats = SiteStats((wide**2).sum(0), wide.sum(0), len(x), 1, (wide.t() @ wide).float())
    return Site(weight, rows, stats, damping)


def loss(site: Site, w: Tensor) -> Tensor:
    """Return the squared error of each row's output, float64 [r]."""
    change = (site.weight - w).double()
    return ((change @ site.hessian.double()) * change).sum(dim=1)


def inverse_upper(factor: Factor) -> Tensor:
    """Return U, float64 [i, i], upper, of the damped Hessian's inverse UᵀU: what SparseGPT calls its factor."""
    identity = torch.eye(len(factor.lower), dtype=torch.float64)
    inverse = torch.linalg.solve_triangular(factor.lower.double(), identity, upper=False)
    return inverse.t() / factor.pivots.double().sqrt()[:, None]
