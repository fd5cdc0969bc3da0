"""The factor used by second-order pruning: H + damping = Lᵀ P L, with L unit lower triangular and P diagonal."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.defaults import DAMPING
from langprune_cli.errors import UnsolvableError
from langprune_cli.machine.precision import in_steps, whole_inputs

# A Hessian of few tokens is singular, and rounding may make it indefinite; more damping helps. Beyond this share of the
# mean diagonal nothing of the Hessian would be left.
_ESCALATION = 10.0
_MOST_DAMPING = 100.0

# Below this mean diagonal, small entries of a Hessian are denormal in float32 and lose digits.
_LEAST = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps

# Rows of the factor computed at a time: the fastest of 64 to 256 for 1024 to 5632 columns.
_ROWS = 128


@dataclass(frozen=True)
class Factor:
    """H + damping * mean(diag H) * I = Lᵀ P L, which gives the best compensation for pruned columns, from left to right.

    SparseGPT's factor U of the inverse, (H + damping)^-1 = UᵀU, is P^(-1/2) L^-T: its diagonal is 1 / sqrt(pivots), and the rest
    of it is never needed. Had the columns k < j lost l_k (dense weight less new weight), the best that column j can do is to lose
    -Σ_k<j L_jk l_k; and where it loses l_j instead, the damped squared error grows by (l_j + Σ_k<j L_jk l_k)^2 P_j.
    """

    lower: Tensor  # float32 [i, i], ones on the diagonal
    pivots: Tensor  # float32 [i], diagonal of P: 1 / U_jj^2
    damping: float  # the damping used: more than requested if the factorisation failed with that
    added: Tensor  # float32 [i], what that put onto the diagonal, and what stands there for a dead column

    def solve(
        self,
        y: Tensor,  # float32 [o, i]
    ) -> Tensor:  # float32 [o, i]
        """Return Y (H + damping)^-1."""
        right = torch.linalg.solve_triangular(self.lower, y, upper=False, left=False, unitriangular=True)
        found: Tensor = torch.linalg.solve_triangular(
            self.lower.t(), right / self.pivots, upper=True, left=False, unitriangular=True
        )
        return found


def dead_columns(
    hessian: Tensor,  # [i, i]
) -> Tensor:  # bool [i]
    """Return the columns of inputs that were zero on every token, so that the effect of their weights is unknown."""
    return hessian.diagonal() == 0


def mean_diagonal(
    hessian: Tensor,  # [i, i]
) -> float:
    """Return the mean diagonal over the live columns, 1 if all are dead.

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
    """Yield the dampings to try, the requested one first; raises LangpruneError when damping would outweigh the Hessian."""
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
    """Return the lower triangle K of KᵀK = H + added, and whether it exists.

    Cholesky gives K Kᵀ, so the rows here are computed from the last to the first, a block at a time: subtract the product of
    the rows below, then factor. These products run at full speed, which LAPACK's do not.
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
            # For the reversed matrix, LAPACK's factor is the one needed.
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
