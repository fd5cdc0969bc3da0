"""The factor that second-order pruning works with: U, upper, with (H + damping)^-1 = UᵀU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError

DAMPING = 0.01  # share of the mean diagonal, as published

# A Hessian of few tokens is singular, and rounding may make it worse than that; more damping mends both. Past this much
# of the mean diagonal nothing of the Hessian would be left.
_ESCALATION = 10.0
_MOST_DAMPING = 100.0
_SMALL = 128  # columns of a triangle that is inverted whole


@dataclass(frozen=True)
class Factor:
    """The upper Cholesky factor of a damped inverse Hessian."""

    u: Tensor  # float32 [i, i], upper; (H + damping * mean(diag H) * I)^-1 = UᵀU
    damping: float  # as it was used: more than asked for where the factorisation failed with that


def dead_columns(
    hessian: Tensor,  # [i, i]
) -> Tensor:  # bool [i]
    """Return the columns of inputs that were zero on every token: nothing is known of their weights' effect."""
    return hessian.diagonal() == 0


def inverse_factor(
    hessian: Tensor,  # float32 [i, i], symmetric, any positive scale
    damping: float = DAMPING,
) -> Factor:
    """Return U of (H + damping * mean(diag H) * I)^-1 = UᵀU (SparseGPT, arXiv 2301.00774, section 3).

    The diagonal of dead columns is set to the mean first, so that any scale of H gives the same result but for that scale.
    No inverse is formed: H with rows and columns reversed has a lower factor which, reversed again, is the V of H = V Vᵀ,
    V upper; and U = V^-1. Where H is not positive definite the damping grows tenfold until it is.
    Raises LangpruneError for a Hessian that is not finite, or that no damping mends.
    """
    diagonal = hessian.diagonal()
    dead = dead_columns(hessian)
    alive = diagonal[~dead]
    mean = float(alive.double().mean()) if alive.numel() else 1.0
    if not mean > 0 or mean == float("inf"):  # NaN is not above 0 either
        raise LangpruneError("the Hessian is not finite: calibrate again, with --dtype float32")
    flipped = hessian.flip(0, 1)
    used = damping
    while used <= max(_MOST_DAMPING, damping):
        damped = flipped.clone()
        damped.diagonal().add_(torch.where(dead, mean, 0.0).flip(0) + used * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed):
            upper = lower.flip(0, 1)
            return Factor(_inverse_upper(upper), used)
        used = max(used * _ESCALATION, 1e-4)
    raise LangpruneError("the Hessian cannot be factored even with heavy damping: calibrate again on more text")


def _inverse_upper(
    v: Tensor,  # float32 [i, i], upper
) -> Tensor:  # float32 [i, i], upper
    """Return the inverse of a triangular matrix, by halves: nearly all of it is products, which run fastest."""
    width = len(v)
    if width <= _SMALL:
        identity = torch.eye(width, dtype=v.dtype, device=v.device)
        inverse: Tensor = torch.linalg.solve_triangular(v, identity, upper=True)
        return inverse
    half = width // 2
    out = torch.zeros_like(v)
    out[:half, :half] = left = _inverse_upper(v[:half, :half])
    out[half:, half:] = right = _inverse_upper(v[half:, half:])
    out[:half, half:] = -(left @ (v[:half, half:] @ right))
    return out
