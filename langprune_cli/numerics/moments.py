"""Column moments of activations: plain float64 sums, which add up across windows, runs and machines."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.machine.threads import one_thread

# Rows widened to float64 at a time, to stay in a core's cache: the whole matrix would take three passes through memory at
# four times its size.
_ROWS = 32


@dataclass
class ColumnMoments:
    """Sums over tokens of one input site's activations x, not normalised (divide where they are used)."""

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
        if x.device.type != "cpu":  # a GPU wants few and large operations
            self._add(x)
        else:
            with one_thread():
                for rows in torch.split(x, _ROWS):
                    self._add(rows)
        self.tokens += x.shape[0]

    def _add(self, rows: Tensor) -> None:
        wide = rows.to(torch.float64, copy=True)
        self.sum_x += wide.sum(dim=0)
        self.sum_sq += wide.square_().sum(dim=0)


def column_norms(
    sum_sq: Tensor,  # float64 [i]
    windows: int,
) -> Tensor:  # float32 [i]
    """Return sqrt(sum of squares / windows), the activation norm of Wanda's section 3 (units: windows, not tokens)."""
    return (sum_sq / windows).sqrt().float()
