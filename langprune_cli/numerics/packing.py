"""Keep masks as bits: column 8k+b of a row is bit b of byte k, rows padded with zeros to whole bytes."""

import torch
from torch import Tensor

_BITS = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)


def pack_mask(
    keep: Tensor,  # bool [o, i]
) -> Tensor:  # uint8 [o, ceil(i / 8)]
    """Pack a keep mask to one bit a weight."""
    rows, columns = keep.shape
    padded = torch.zeros(rows, -(-columns // 8) * 8, dtype=torch.uint8)
    padded[:, :columns] = keep
    # Eight distinct powers of two add up to at most 255, so the uint8 sum cannot wrap.
    return (padded.view(rows, -1, 8) * _BITS).sum(dim=2, dtype=torch.uint8)


def unpack_mask(
    packed: Tensor,  # uint8 [o, ceil(i / 8)]
    columns: int,
) -> Tensor:  # bool [o, i]
    """Return the keep mask that `pack_mask` packed, for a matrix of `columns` inputs."""
    bits = packed.unsqueeze(2).bitwise_and(_BITS.to(packed.device)).ne(0)
    return bits.view(packed.shape[0], -1)[:, :columns].contiguous()
