"""Least squares on a fixed mask: the best values of the kept weights, by preconditioned conjugate gradient."""

import torch
from torch import Tensor

from langprune_cli.machine.precision import whole_inputs
from langprune_cli.machine.threads import over_rows
from langprune_cli.numerics.site import Site
from langprune_cli.numerics.values import kept

STEPS = 20  # each lowers the error; after about 20, perplexity no longer improves


def least_squares(
    site: Site,
    keep: Tensor,  # bool [r, i]
    steps: int = STEPS,
) -> Tensor:  # float32 [r, i]
    """Return values of the kept weights that nearly minimise the damped reconstruction error.

    It starts from the dense values: SparseGPT's sweep with that mask is a start that saves fewer than five steps, and a chain of
    operations as long as a row. Rows are independent, and slices of them stay in a core's cache for all steps.
    """
    hessian = site.hessian.clone()
    hessian.diagonal().add_(site.factor.added).clamp_(min=torch.finfo(hessian.dtype).tiny)
    found = torch.empty_like(site.weight)

    def solve(rows: slice) -> None:
        target, support = site.weight[rows], keep[rows]
        found[rows] = conjugate_gradient(kept(target, support), target, hessian, support, steps)

    with whole_inputs(hessian.device):
        over_rows(solve, found.shape, hessian.device)
    return found


def conjugate_gradient(
    start: Tensor,  # float32 [r, i], zero off the support
    target: Tensor,  # float32 [r, i]
    hessian: Tensor,  # float32 [i, i], symmetric, damped
    keep: Tensor,  # bool [r, i]
    steps: int,
) -> Tensor:  # float32 [r, i]
    """Lower tr((W - target) H (W - target)ᵀ) over W that is zero where `keep` is False, from W = `start`.

    All rows step together, each with its own step lengths; a step costs one product with H. The preconditioner is the
    diagonal of H (ALPS, arXiv 2406.07831, section 3.3). A row whose residual is zero does not change.
    """
    support = keep.to(start.dtype)
    inverse = hessian.diagonal().reciprocal()
    w = start.clone()
    residual = ((target - w) @ hessian).mul_(support)
    direction = residual * inverse
    size = (residual * direction).sum(dim=1, keepdim=True)
    for _ in range(steps):
        curved = direction @ hessian
        bend = (direction * curved).sum(dim=1, keepdim=True)
        length = torch.where(bend > 0, size / bend, 0.0)
        w.addcmul_(direction, length)
        residual.addcmul_(curved.mul_(support), length, value=-1)
        scaled = residual * inverse
        before, size = size, (residual * scaled).sum(dim=1, keepdim=True)
        direction = scaled.addcmul_(direction, torch.where(before > 0, size / before, 0.0))
    return w
