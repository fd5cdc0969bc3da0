"""Column moments of activations: plain sums in float64, so that they add across windows, runs and machines."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows are widened to float64 a slice at a time: a slice of this many bytes stays in a core's cache, where the whole
# activation matrix would make three trips to memory at four times its size.
_SLICE_BYTES = 1 << 20


@dataclass
class ColumnMoments:
    """Sums over tokens of one input site's activations x, never normalised (divide where they are used)."""

    sum_sq: Tensor  # float64 [i], sum of x squared
    sum_x: Tensor  # float64 [i], sum of x
    tokens: int = 0

    @classmethod
    def zeros(cls, width: int, device: torch.device | str = "cpu") -> "ColumnMoments":
        """Return empty moments of `width` columns."""
        sum_sq, sum_x = torch.zeros(2, width, dtype=torch.float64, device=device)
        return cls(sum_sq, sum_x)

    def add(self, x: Tensor) -> None:
        """Add the rows of `x` [t, i], any float dtype, to the sums.

        float64 throughout: squares of fp16 values above 256 overflow fp16, and float32 sums over 10^5 tokens would
        make the result depend on how the windows were batched in the seventh digit.
        """
        rows = max(1, _SLICE_BYTES // (8 * x.shape[1]))
        ones = torch.ones(rows, dtype=torch.float64, device=x.device)
        wide = torch.empty(rows, x.shape[1], dtype=torch.float64, device=x.device)
        for part in torch.split(x, rows):
            count = part.shape[0]
            piece = wide[:count].copy_(part)
            self.sum_x.addmv_(piece.t(), ones[:count])
            self.sum_sq.addmv_(piece.square_().t(), ones[:count])
        self.tokens += x.shape[0]


def column_norms(
    sum_sq: Tensor,  # float64 [i]
    windows: int,
) -> Tensor:  # float32 [i]
    """Return sqrt(sum of squares / windows), the activation norm of Wanda's section 3 (units: windows, not tokens)."""
    return (sum_sq / windows).sqrt().float()
