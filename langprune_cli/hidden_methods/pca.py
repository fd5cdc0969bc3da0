"""PCA: keeps the directions in which the residual stream is largest (SliceGPT, Ashkboos et al., arXiv 2401.15024)."""

import torch
from torch import Tensor

from langprune_cli.hidden_methods.method import HiddenMethod


def turn(moments: Tensor, left: int) -> Tensor:  # float64 [d, d] -> [d, left]
    """Return the principal components with the most energy, the largest first (section 3.2).

    Unlike there, all blocks share them, since a stream whose coordinates change between blocks needs a matrix more at each.
    """
    vectors: Tensor = torch.linalg.eigh(moments).eigenvectors
    return vectors[:, -left:].flip(1)


METHOD = HiddenMethod("pca", "https://arxiv.org/abs/2401.15024", turn)
