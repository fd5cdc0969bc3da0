"""The factor that second-order pruning works with: H + damping = Lᵀ P L, L lower with a diagonal of ones, P diagonal."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.defaults import DAMPING
from langprune_cli.errors import UnsolvableError
from langprune_cli.machine.precision import in_steps, whole_inputs

# A Hessian of few tokens is singular, and rounding may make it worse than that; more damping mends both. Past this much
# of the mean diagonal nothing of the Hessian would be left.
_ESCALATION = 10.0
_MOST_DAMPING = 100.0

# Below this mean of its diagonal a Hessian's entries begin to lose digits: float32 has fewer of what is nearly too small for it.
_LEAST = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps

# Rows of the factor that are found at a time: of 64 to 256 the fastest for 1024 to 5632 columns.
_ROWS = 128


@dataclass(frozen=True)
class Factor:
    """H + damping * mean(diag H) * I = Lᵀ P L, which says how best to make up for what columns lose, from left to right.

    SparseGPT's factor U of the inverse, (H + damping)^-1 = UᵀU, is P^(-1/2) L^-T: its diagonal is 1 / sqrt(pivots), and the rest
    of it is never needed. Had the columns k < j lost l_k (dense weight less new weight), the best that column j can do is to lose
    -Σ_k<j L_jk l_k; and where it loses l_j instead, the damped squared error grows by (l_j + Σ_k<j L_jk l_k)^2 P_j.
    """

    lower: Tensor  # float32 [i, i], ones on the diagonal
    pivots: Tensor  # float32 [i], diagonal of P: 1 / U_jj^2
    damping: float  # as it was used: more than asked for where the factorisation failed with that
    added: Tensor  # float32 [i], what that put onto the diagonal, and what stands there for a dead column


def dead_columns(
    hessian: Tensor,  # [i, i]
) -> Tensor:  # bool [i]
    """Return the columns of inputs that were zero on every token: nothing is known of their weights' effect."""
    return hessian.diagonal() == 0


def mean_diagonal(
    hessian: Tensor,  # [i, i]
) -> float:
    """Return the mean of the diagonal over the columns that are not dead, 1 where all are.

    Raises UnsolvableError for a Hessian that is not finite, or too small for float32.
    """
    alive = hessian.diagonal()[~dead_columns(hessian)]
    mean = float(alive.double().mean()) if alive.numel() else 1.0
    if not mean > 0 or mean == float("inf"):  # NaN is not above 0 either
        raise UnsolvableError("the Hessian is not finite: calibrate again, with --dtype float32")
    if mean < _LEAST:
        raise UnsolvableError(
            "what it reads is so small that its squares vanish in float32, and with them the Hessian: choose and update without "
            "one (--method wanda --update none), or check the checkpoint, its embeddings above all"
        )
    return mean


def dampings(asked: float) -> Iterator[float]:
    """Yield the dampings to be tried, the one asked for first; raises LangpruneError once nothing is left of a Hessian."""
    used = asked
    while used <= max(_MOST_DAMPING, asked):
        yield used
        used = max(used * _ESCALATION, 1e-4)
    raise UnsolvableError("the Hessian cannot be factored even with heavy damping: calibrate again on more text")


def damped_factor(
    hessian: Tensor,  # float32 [i, i], symmetric, any positive scale
    damping: float = DAMPING,
) -> Factor:
    """Factor H + damping * mean(diag H) * I (SparseGPT, arXiv 2301.00774, section 3, without its inverse).

    The diagonal of dead columns is set to the mean first, so that any scale of H gives the same result but for that scale.
    H with rows and columns reversed has a lower Cholesky factor C; C reversed again is (P^(1/2) L)ᵀ. Where H is not
    positive definite the damping grows tenfold until it is.
    Raises LangpruneError for a Hessian that is not finite, or that no damping mends.
    """
    dead, mean = dead_columns(hessian), mean_diagonal(hessian)
    for used in dampings(damping):
        added = torch.where(dead, mean, 0.0) + used * mean
        lower, found = _lower_factor(hessian, added)
        if found:
            break
    roots = lower.diagonal().clone()
    return Factor(lower.div_(roots[:, None]), roots.square(), used, added)


def _lower_factor(
    hessian: Tensor,  # float32 [i, i], symmetric
    added: Tensor,  # float32 [i], to its diagonal
) -> tuple[Tensor, bool]:
    """Return the lower triangle K of KᵀK = H + added, and whether there is one.

    Cholesky's factor has K on the other side, so that the rows of this one are found from the last to the first: some
    at a time, less what the ones below make of them, in products that run at a machine's rate, as LAPACK's do not.
    """
    lower, failed = torch.zeros_like(hessian), torch.zeros((), dtype=torch.int32, device=hessian.device)
    with whole_inputs(hessian.device):
        for end in range(len(hessian), 0, -_ROWS):
            start = max(0, end - _ROWS)
            rows = hessian[:end, start:end].t().clone(memory_format=torch.contiguous_format)
            square = rows[:, start:]
            square.diagonal().add_(added[start:end])
            if end < len(hessian):
                rows.addmm_(lower[end:, start:end].t(), lower[end:, :end], alpha=-1)
            # Of a matrix in which the last comes first, LAPACK's own factor is the one that is sought.
            turned, wrong = torch.linalg.cholesky_ex(square.flip(0, 1))
            failed = torch.maximum(failed, wrong)
            upper = turned.flip(0, 1)
            lower[start:end, start:end] = upper.t()
            if start:
                # By the inverse of the small square: a product with it takes a tenth of the time of solving.
                identity = torch.eye(end - start, dtype=lower.dtype, device=lower.device)
                inverse = torch.linalg.solve_triangular(upper, identity, upper=True)
                for columns in in_steps(0, start, lower.device):
                    torch.mm(inverse, rows[:, columns], out=lower[start:end, columns])
    return lower, not bool(failed)
