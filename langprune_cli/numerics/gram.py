"""Hessians: sums of x xᵀ over tokens; only the upper triangle is computed and stored."""

import torch
from torch import Tensor

from langprune_cli.machine.precision import low_precision_inputs, whole_inputs

# The product is computed in panels of rows of the upper triangle: narrow panels waste less below the diagonal, wide ones run
# faster. 128 and 256 take equally long (1024 to 3584 columns), little more than half of the full product; and a CPU's
# library keeps a buffer for every shape of a product.
_PANEL = 256


def add_gram(
    hessian: Tensor,  # float32 [i, i], upper triangle
    x: Tensor,  # [t, i], any float dtype
) -> None:
    """Add xᵀx to the upper triangle of `hessian`, in place; values below the diagonal are undefined.

    Inputs are multiplied in their own dtype if it is float32, or bfloat16 on CPU and CUDA, or float16 on CUDA; sums are
    float32.
    """
    wide = x.float()
    with whole_inputs(x.device), low_precision_inputs(x.dtype, x.device):
        for start in range(0, hessian.shape[0], _PANEL):
            rows = slice(start, start + _PANEL)
            hessian[rows, start:].addmm_(wide[:, rows].t(), wide[:, start:])


def add_cross(
    cross: Tensor,  # float32 [o, i]
    y: Tensor,  # float32 [t, o]
    x: Tensor,  # [t, i], any float dtype
) -> None:
    """Add yᵀx to `cross`, in place; where `x` is in low precision, so that products of it are, `y` is rounded to it too."""
    with whole_inputs(x.device), low_precision_inputs(x.dtype, x.device):
        cross.addmm_(y.t(), x.float())


def pack_upper(
    hessian: Tensor,  # [i, i]
) -> Tensor:  # [i (i + 1) / 2]
    """Return the upper triangle, row by row."""
    return torch.cat([row[start:] for start, row in enumerate(hessian)])


def unpack_upper(
    packed: Tensor,  # [i (i + 1) / 2]
) -> Tensor:  # [i, i]
    """Return the symmetric matrix that `pack_upper` packed."""
    width = int((8 * packed.numel() + 1) ** 0.5 - 1) // 2
    full = packed.new_empty(width, width)
    first = 0
    for start in range(width):
        full[start, start:] = packed[first : first + width - start]
        first += width - start
    for start in range(0, width, _PANEL):  # below the diagonal, in panels: a transposed copy is slow where it is large
        rows = slice(start, start + _PANEL)
        square = full[rows, rows]
        square.copy_(square.triu() + square.triu(1).t())
        full[start + _PANEL :, rows] = full[rows, start + _PANEL :].t()
    return full


def output_energy(
    w: Tensor,  # float32 [o, i]
    hessian: Tensor,  # float32 [i, i], symmetric
    *,
    coarse: bool = False,
) -> float:
    """Return tr(W H Wᵀ): the sum of squared outputs of W on the calibration text.

    Computed as the inner product of H and WᵀW, of which the upper triangle is enough. The figure is for reports: W is rounded
    to bfloat16, which changes it by less than a thousandth and is three times as fast. `coarse` rounds the products too, which
    is faster still, but only for trained weights: the products of an update's changes cancel.
    """
    wide = w.bfloat16() if coarse else w.bfloat16().float()
    energy = 0.0
    with low_precision_inputs(torch.bfloat16, w.device):
        for start in range(0, hessian.shape[0], _PANEL):
            rows = slice(start, start + _PANEL)
            panel = (wide[:, rows].t() @ wide[:, start:]).float().mul_(hessian[rows, start:])
            square = panel[:, : len(panel)]  # on the diagonal, which holds its lower part too
            energy += float(2 * panel.sum() - square.sum())
    return energy
