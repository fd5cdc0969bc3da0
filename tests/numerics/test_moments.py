"""Column moments against float64 sums, their additivity, and what they are not to depend on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.numerics import moments
from langprune_cli.numerics.moments import ColumnMoments, column_norms

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def activations(tokens: int, width: int, dtype: torch.dtype = torch.float32, *, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(tokens * 1000 + width)
    return (torch.randn(tokens, width, generator=generator, dtype=torch.float64) * scale + 0.3).to(dtype)


def moments_of(*parts: Tensor) -> ColumnMoments:
    found = ColumnMoments.zeros(parts[0].shape[1])
    for part in parts:
        found.add(part)
    return found


def assert_sums(found: ColumnMoments, x: Tensor, relative: float = 1e-14) -> None:
    """Compare with sums of exact products, in numpy's extended precision; sum_x relative to the sum of sizes."""
    wide = x.double().numpy().astype(np.longdouble)
    squares, sums, sizes = (wide * wide).sum(axis=0), wide.sum(axis=0), np.abs(wide).sum(axis=0)
    assert found.sum_sq.dtype == found.sum_x.dtype == torch.float64
    assert bool((np.abs(found.sum_sq.numpy() - squares) <= relative * squares).all())
    assert bool((np.abs(found.sum_x.numpy() - sums) <= relative * sizes).all())
    assert found.tokens == x.shape[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (7, 5), (300, 96), (1000, 33)])
def test_sums_are_those_of_float64(tokens: int, width: int, dtype: torch.dtype) -> None:
    x = activations(tokens, width, dtype)
    assert_sums(moments_of(x), x)


def test_fp16_values_above_256_do_not_overflow() -> None:
    x = activations(200, 16, torch.float16, scale=20_000.0).clamp(-60_000, 60_000)
    assert bool(torch.isinf(x * x).any())
    found = moments_of(x)
    assert bool(torch.isfinite(found.sum_sq).all())
    assert_sums(found, x)
    assert bool(torch.isfinite(column_norms(found.sum_sq, 4)).all())


def test_small_values_beside_large_ones_are_not_lost() -> None:
    x = torch.full((20_000, 2), 1.0)
    x[0] = 8192.0  # its square is 2^26: float32 would round every later 1 to a multiple of 8
    assert moments_of(x).sum_sq.tolist() == [2.0**26 + 19_999] * 2


@pytest.mark.parametrize("tokens", [moments._ROWS - 1, moments._ROWS, 2 * moments._ROWS + 1])
def test_every_row_is_added_and_threads_are_as_before(tokens: int) -> None:
    threads = torch.get_num_threads()
    x = activations(tokens, 2000)
    assert_sums(moments_of(x), x, relative=1e-12)
    assert torch.get_num_threads() == threads


def test_float64_activations_stay_as_they_are() -> None:
    x = activations(40, 12).double()
    before = x.clone()
    assert_sums(moments_of(x), before)
    assert torch.equal(x, before)


@settings(deadline=None, max_examples=50)
@given(tokens=st.integers(1, 60), width=st.integers(1, 20), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_sums_add_over_splits(tokens: int, width: int, cuts: list[int]) -> None:
    x = activations(tokens, width)
    edges = sorted({0, tokens, *(cut for cut in cuts if cut < tokens)})
    parts = moments_of(*(x[start:stop] for start, stop in pairwise(edges)))
    whole = moments_of(x)
    assert parts.tokens == whole.tokens == tokens
    torch.testing.assert_close(parts.sum_sq, whole.sum_sq, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.sum_x, whole.sum_x, rtol=1e-12, atol=1e-12 * float(x.abs().sum()))


def test_the_input_and_its_layout_stay_as_they_are() -> None:
    x = activations(40, 12)
    before = x.clone()
    moments_of(x)
    assert torch.equal(x, before)
    strided = activations(12, 40).t()
    assert_sums(moments_of(strided), strided)
    none = ColumnMoments.zeros(12)
    none.add(x[:0])
    assert (none.tokens, float(none.sum_sq.sum())) == (0, 0.0)


def test_empty_moments_do_not_share_their_memory() -> None:
    found = ColumnMoments.zeros(3)
    found.sum_sq += 1
    assert found.sum_x.tolist() == [0.0, 0.0, 0.0]


def test_infinity_shows_in_the_sums() -> None:
    x = activations(5, 3)
    x[2, 1] = float("inf")
    assert torch.isfinite(moments_of(x).sum_sq).tolist() == [True, False, True]


def test_norms_are_per_window_and_not_per_token() -> None:
    assert column_norms(torch.tensor([8.0, 0.0, 1e40], dtype=torch.float64), 2).tolist() == pytest.approx(
        [2.0, 0.0, 5e39**0.5]
    )
    assert column_norms(torch.ones(1, dtype=torch.float64), 1).dtype == torch.float32
