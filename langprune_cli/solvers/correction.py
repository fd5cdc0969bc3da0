"""What weights have to add so that their outputs make up for an error, as far as it can be told from their inputs."""

import torch
from torch import Tensor

from langprune_cli.numerics.factor import Factor


def correction(
    factor: Factor,  # of the damped Hessian H = Σ x xᵀ over both halves, [i, i]
    halves: Tensor,  # float32 [2, o, i], Σ e xᵀ over each half of a text's windows
) -> Tensor:  # float32 [o, i]
    """Return D of which D x is the best prediction of the error e [o] from the input x [i] on other text.

    Least squares, R H^-1 with R = Σ e xᵀ, also fits what the inputs do not determine: on few tokens that may be most of it. With
    halves R = A + B the energy that it explains on its own text is R H^-1 Rᵀ, of which 4 A H^-1 Bᵀ remains elsewhere, since what
    is chance in one half has nothing to do with the other. Each row is shrunk by that ratio (a Wiener filter).
    """
    one, other = halves
    by_one, by_other = factor.solve(one), factor.solve(other)
    whole = by_one + by_other
    explained = (whole * (one + other)).sum(dim=1)
    confirmed = 2 * ((by_one * other).sum(dim=1) + (by_other * one).sum(dim=1))
    share = torch.where(explained > 0, confirmed / explained, 0.0).clamp(0.0, 1.0)
    return whole.mul_(share[:, None])
