"""Masks by ADMM: alternate least squares and sparsity until they agree on which weights to keep."""

import torch
from torch import Tensor

from langprune_cli.machine.precision import whole_inputs
from langprune_cli.numerics.factor import mean_diagonal
from langprune_cli.numerics.patterns import Pattern, keep_gradually
from langprune_cli.numerics.site import Site
from langprune_cli.numerics.values import kept

STEPS = 60
_RAMP = 50  # steps over which the sparsity rises to the requested one
_RHO = 1.0  # penalty, in units of the scaled Hessian's diagonal, which is 1
_DAMPING = 0.03  # the same units: added to the diagonal


def admm_mask(site: Site, pattern: Pattern) -> Tensor:  # bool [r, i]
    """Return the keep mask that ADMM finds for min tr((W - W0) H (W - W0)ᵀ) with sparse W.

    Boža, "Fast and Effective Weight Update for Pruned Large Language Models" (arXiv 2401.02938), section 3: inputs are
    scaled to unit norm, so that one penalty fits all, and the sparsity follows a cubic ramp. The smallest weights of the
    whole linear are pruned, or of each group of M.

    Of the usual three variables only V = X + U is stored: with Z = V where the mask holds, U = V - Z and
    X = (W0 H + rho (Z - U)) (H + rho I)^-1, so that a step costs one product.
    """
    mean_diagonal(site.hessian)  # raises for a Hessian that cannot be used
    scale = site.hessian.diagonal().sqrt()
    divisor = torch.where(scale > 0, scale, 1.0)
    hessian = site.hessian / divisor[:, None] / divisor
    hessian.diagonal().add_(_DAMPING)
    v = site.weight * scale  # weights of dead columns become 0 and are pruned first
    aim = v @ hessian
    hessian.diagonal().add_(_RHO)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    for step in range(1, STEPS + 1):
        share = 1 - max(0.0, 1 - step / _RAMP) ** 3
        z = kept(v, _chosen(site, v, pattern, share))
        rest = v - z
        with whole_inputs(v.device):
            v = torch.addmm(rest, aim + _RHO * (z - rest), inverse)
    return _chosen(site, v, pattern, 1.0)


def _chosen(site: Site, v: Tensor, pattern: Pattern, share: float) -> Tensor:
    return torch.cat([keep_gradually(part, pattern, share) for part in site.split(v.abs())])
