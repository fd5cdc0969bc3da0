"""Column moments of activations: plain sums in float64, so that they add across windows, runs and machines."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Activations are widened to float64 a tile at a time: a tile stays in a core's cache, where the whole matrix would make
# three trips to memory at four times its size. 2^15 values is also where torch begins to split work over threads: on a
# busy machine, waiting for the other thread cost up to a hundred times what it saved (docs/decisions.md).
_TILE_VALUES = 1 << 15
_TILE_COLUMNS = 1 << 11


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
        if x.device.type == "cpu":
            self._add_tiles(x)
        else:  # a GPU wants few and large operations
            wide = x.double()
            self.sum_x += wide.sum(dim=0)
            self.sum_sq += wide.square_().sum(dim=0)
        self.tokens += x.shape[0]

    def _add_tiles(self, x: Tensor) -> None:
        wide = torch.empty(_TILE_VALUES, dtype=torch.float64)
        ones = torch.ones(_TILE_VALUES, dtype=torch.float64)
        for start in range(0, x.shape[1], _TILE_COLUMNS):
            columns = slice(start, start + _TILE_COLUMNS)
            width = self.sum_x[columns].shape[0]
            for rows in torch.split(x[:, columns], _TILE_VALUES // width):
                tile = wide[: rows.numel()].view(rows.shape).copy_(rows)
                self.sum_x[columns].addmv_(tile.t(), ones[: len(rows)])
                self.sum_sq[columns].addmv_(tile.square_().t(), ones[: len(rows)])


def column_norms(
    sum_sq: Tensor,  # float64 [i]
    windows: int,
) -> Tensor:  # float32 [i]
    """Return sqrt(sum of squares / windows), the activation norm of Wanda's section 3 (units: windows, not tokens)."""
    return (sum_sq / windows).sqrt().float()
