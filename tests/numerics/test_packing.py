"""Keep masks as bits: the layout by hand, against numpy, and as the goldens have it."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from langprune_cli.numerics.packing import pack_mask, unpack_mask
from tests.support.paths import GOLDENS


def test_column_8k_plus_b_is_bit_b_of_byte_k() -> None:
    for column in range(19):
        keep = torch.zeros(2, 19, dtype=torch.bool)
        keep[1, column] = True
        packed = pack_mask(keep)
        assert packed.dtype == torch.uint8
        expected = [0, 0, 0]
        expected[column // 8] = 1 << (column % 8)
        assert packed.tolist() == [[0, 0, 0], expected]


def test_by_hand() -> None:
    keep = torch.tensor([[1, 0, 1, 0, 0, 0, 0, 1, 0, 1], [1] * 10]).bool()
    assert pack_mask(keep).tolist() == [[0b10000101, 0b10], [0xFF, 0b11]]
    assert torch.equal(unpack_mask(torch.tensor([[0b10000101, 0b10], [0xFF, 0b11]], dtype=torch.uint8), 10), keep)


@settings(deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_round_trip_and_numpy(rows: int, columns: int, seed: int) -> None:
    keep = np.random.default_rng(seed).random((rows, columns)) < 0.5
    packed = pack_mask(torch.from_numpy(keep))
    assert np.array_equal(packed.numpy(), np.packbits(keep, axis=1, bitorder="little"))
    back = unpack_mask(packed, columns)
    assert back.dtype == torch.bool
    assert np.array_equal(back.numpy(), keep)


def test_transposed_masks_pack_as_they_are_seen() -> None:
    keep = torch.rand(12, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpack_mask(pack_mask(keep.t()), 12), keep.t())


def test_the_goldens_layout() -> None:
    """Two of every four consecutive columns: only the right order of bits shows that."""
    masks = load_file(GOLDENS / "pico.safetensors")
    of_groups = {name: packed for name, packed in masks.items() if "/2x4/" in name}
    assert len(of_groups) == 4 * 14
    for packed in of_groups.values():
        rows, size = packed.shape
        keep = unpack_mask(packed, 8 * size)
        assert bool((keep.view(rows, -1, 4).sum(dim=2) == 2).all())
        assert torch.equal(pack_mask(keep), packed)
