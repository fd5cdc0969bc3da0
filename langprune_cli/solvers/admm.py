"""Masks by ADMM: alternate least squares and sparsity until they agree on which weights to keep."""

from functools import partial

import torch
from torch import Tensor

from langprune_cli.machine.precision import whole_inputs
from langprune_cli.machine.threads import over_rows
from langprune_cli.numerics.factor import mean_diagonal
from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.numerics.site import Site
from langprune_cli.solvers.thresholds import Thresholds

STEPS = 20  # over-relaxed, as good as 30 that are not (docs/decisions-appendix.md)
_RAMP = 16  # steps over which the sparsity rises to the requested one
_RELAXATION = 1.6  # of X, by which a step goes further: 1.5 to 1.8 are usual
_RHO = 1.0  # penalty, in units of the scaled Hessian's diagonal, which is 1
_DAMPING = 0.03  # the same units: added to the diagonal
# Of every so many rows of a linear with more than a few, one tells the threshold; not 16, as rows of heads lie 64 and 128 apart.
_SAMPLED, _FEW = 13, 256


def admm_mask(site: Site, pattern: Pattern) -> Tensor:  # bool [r, i]
    """Return the keep mask that ADMM finds for min tr((W - W0) H (W - W0)ᵀ) with sparse W.

    Boža, "Fast and Effective Weight Update for Pruned Large Language Models" (arXiv 2401.02938), section 3: inputs are
    scaled to unit norm, so that one penalty fits all, and the sparsity follows a cubic ramp. The smallest weights of the
    whole linear are pruned, or of each group of M.

    Of the usual three variables only V = X + U is stored: with Z = V where the mask holds, U = V - Z and
    X = W0 + rho (Z - U - W0) (H + rho I)^-1, so that a step costs one product. X is over-relaxed (Boyd et al., "Distributed
    Optimization and Statistical Learning via the Alternating Direction Method of Multipliers", 2011, section 3.4.3). Steps before
    the last take the threshold of a sample of rows; with it rows are independent, and slices of them stay in a core's cache.
    """
    mean_diagonal(site.hessian)  # raises for a Hessian that cannot be used
    thresholds = Thresholds(pattern, site.weight.shape[1], site.weight.device)
    order = thresholds.order
    scale = site.hessian.diagonal().sqrt()
    divisor = torch.where(scale > 0, scale, 1.0)
    hessian = (site.hessian / divisor[:, None] / divisor)[order][:, order]
    hessian.diagonal().add_(_DAMPING + _RHO)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).mul_(_RHO)
    w0 = (site.weight * scale)[:, order]  # weights of dead columns become 0 and are pruned first
    v = w0.clone()
    with whole_inputs(v.device):
        for step in range(1, STEPS + 1):
            share = 1 - max(0.0, 1 - step / _RAMP) ** 3
            found = [thresholds.of(_sample(part), share).expand(len(part), 1) for part in site.split(v)]
            over_rows(partial(_step, w0, v, inverse, thresholds, torch.cat(found)), v.shape, v.device)
    v = v[:, order.argsort()]
    return torch.cat([keep_mask(part.abs(), pattern, group="layer") for part in site.split(v)])


def _sample(v: Tensor) -> Tensor:
    return v[:: _SAMPLED if len(v) > _FEW else 1].abs()


def _step(
    dense: Tensor,  # [o, i], scaled
    v: Tensor,  # [o, i], changed in place
    inverse: Tensor,  # [i, i], rho (H + rho I)^-1
    thresholds: Thresholds,
    least: Tensor,  # [o, 1]
    rows: slice,
) -> None:
    """Take a step of some rows: from V to U + a X + (1 - a) Z, a being the relaxation.

    With U = V - Z that is V + a (W0 - Z) - a (V + W0 - 2 Z) times the inverse.
    """
    z = thresholds.kept(v[rows], least[rows])
    both = v[rows] + dense[rows]
    start = torch.sub(dense[rows], z).mul_(_RELAXATION).add_(v[rows])
    torch.addmm(start, both.sub_(z, alpha=2), inverse, alpha=-_RELAXATION, out=v[rows])
