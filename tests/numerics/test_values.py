"""Finiteness and masking of many values at once: the edges that products and extremes could get wrong."""

import pytest
import torch

from langprune_cli.numerics.values import all_finite, kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", [0, 517, 999])
def test_one_bad_value_is_found_anywhere(dtype: torch.dtype, bad: float, place: int) -> None:
    values = torch.randn(1000).to(dtype)
    assert all_finite(values)
    values[place] = bad
    assert not all_finite(values)
    assert not all_finite(values.view(20, 50).t())


def test_the_largest_finite_values_and_none_at_all_are_finite() -> None:
    largest = torch.finfo(torch.float16).max
    assert all_finite(torch.tensor([largest, -largest], dtype=torch.float16))
    assert all_finite(torch.empty(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stays_is_the_same_and_what_does_not_is_plus_zero(dtype: torch.dtype) -> None:
    w = torch.randn(40, 30).to(dtype)
    w[0, :4] = torch.tensor([-0.0, 0.0, torch.finfo(dtype).max, torch.finfo(dtype).tiny])
    keep = torch.rand(30, 40).t() > 0.5  # another layout than that of the weights
    found = kept(w, keep)
    assert torch.equal(found[keep], w[keep])
    assert not found[~keep].any()
    assert not torch.signbit(found[~keep]).any()
    assert found.dtype == dtype
