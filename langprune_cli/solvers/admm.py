"""Masks by ADMM: alternate least squares and sparsity until they agree on which weights to keep."""

from functools import partial

import torch
from torch import Tensor

from langprune_cli.machine.precision import whole_inputs
from langprune_cli.machine.threads import over_rows
from langprune_cli.numerics.factor import mean_diagonal
from langprune_cli.numerics.patterns import Pattern, keep_above, keep_mask, threshold_of
from langprune_cli.numerics.site import Site
from langprune_cli.numerics.values import kept

STEPS = 30  # 60 lose 4% fewer nats, in twice the time (docs/decisions-appendix.md)
_RAMP = 25  # steps over which the sparsity rises to the requested one
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
    X = W0 + rho (Z - U - W0) (H + rho I)^-1, so that a step costs one product. Steps before the last take the threshold of a
    sample of rows; with it rows are independent, and slices of them stay in a core's cache.
    """
    mean_diagonal(site.hessian)  # raises for a Hessian that cannot be used
    scale = site.hessian.diagonal().sqrt()
    divisor = torch.where(scale > 0, scale, 1.0)
    hessian = site.hessian / divisor[:, None] / divisor
    hessian.diagonal().add_(_DAMPING + _RHO)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).mul_(_RHO)
    w0 = site.weight * scale  # weights of dead columns become 0 and are pruned first
    v = w0.clone()
    with whole_inputs(v.device):
        for step in range(1, STEPS + 1):
            share = 1 - max(0.0, 1 - step / _RAMP) ** 3
            thresholds = [_threshold(part, pattern, share) for part in site.split(v)]
            least = torch.cat([each.expand(rows, 1) for each, rows in zip(thresholds, site.rows, strict=True)])
            over_rows(partial(_step, w0, v, inverse, pattern, least), v.shape, v.device)
    return torch.cat([keep_mask(part.abs(), pattern, group="layer") for part in site.split(v)])


def _threshold(v: Tensor, pattern: Pattern, share: float) -> Tensor:  # [1, 1]
    return threshold_of(v[:: _SAMPLED if len(v) > _FEW else 1].abs(), pattern, share)


def _step(
    dense: Tensor,  # [o, i], scaled
    v: Tensor,  # [o, i], changed in place
    inverse: Tensor,  # [i, i], rho (H + rho I)^-1
    pattern: Pattern,
    least: Tensor,  # [o, 1]
    rows: slice,
) -> None:
    """Take a step of some rows: keep what the pattern keeps of each row and what is above `least`."""
    here = v[rows]
    z = kept(here, keep_above(here.abs(), pattern, least[rows]))
    rest = here - z
    z.sub_(rest).sub_(dense[rows])
    torch.addmm(rest.add_(dense[rows]), z, inverse, out=here)
