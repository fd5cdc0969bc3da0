"""Keep masks as bits: column 8k+b of a row is bit b of byte k, rows padded with zeros to whole bytes."""

import numpy as np
import torch
from torch import Tensor


def pack_mask(
    keep: Tensor,  # bool [o, i]
) -> Tensor:  # uint8 [o, ceil(i / 8)], on the CPU
    """Pack a keep mask to one bit a weight."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy(), axis=1, bitorder="little"))


def unpack_mask(
    packed: Tensor,  # uint8 [o, ceil(i / 8)]
    columns: int,
) -> Tensor:  # bool [o, i], on the CPU
    """Return the keep mask that `pack_mask` packed, for a matrix of `columns` inputs."""
    bits = np.unpackbits(packed.cpu().numpy(), axis=1, count=columns, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
