"""Hessians against float64 sums of exact products, their packing, and the precision that is set and set back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.numerics.gram import add_gram, output_energy, pack_upper, unpack_upper
from tests.support.hessians import correlated


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [1, 7, 128, 300])
def test_a_hessian_is_the_sum_of_exact_products(width: int, dtype: torch.dtype) -> None:
    """Inputs are not rounded any further: float32 sums are all that differs from float64."""
    parts = [correlated(257, width, seed).to(dtype) for seed in range(3)]
    hessian = torch.zeros(width, width)
    for part in parts:
        add_gram(hessian, part)
    wide = torch.cat(parts).double()
    size = wide.abs().t() @ wide.abs()
    error = (unpack_upper(pack_upper(hessian)).double() - wide.t() @ wide).abs() / size
    assert float(error.max()) < 771 * 2**-24  # one rounding for each product added, and they mostly cancel


def test_products_of_bfloat16_leave_no_setting_behind() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined] # not in its stubs
    add_gram(torch.zeros(4, 4), torch.ones(2, 4, dtype=torch.bfloat16))
    output_energy(torch.ones(2, 4), torch.eye(4))
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined] # as above
    with pytest.raises(RuntimeError):
        add_gram(torch.zeros(4, 4), torch.ones(2, 5, dtype=torch.bfloat16))
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined] # as above


@given(st.integers(1, 70))
def test_packing_keeps_the_upper_triangle(width: int) -> None:
    full = correlated(3 * width, width)
    matrix = full.t() @ full
    matrix = (matrix + matrix.t()) / 2
    packed = pack_upper(matrix)
    assert packed.shape == (width * (width + 1) // 2,)
    assert torch.equal(packed, matrix[torch.triu(torch.ones(width, width)).bool()])
    assert torch.equal(unpack_upper(packed), matrix)
    below = torch.full_like(matrix, float("nan")).tril(-1)
    assert torch.equal(unpack_upper(pack_upper(matrix.triu() + below)), matrix)  # below the diagonal may lie anything


def test_the_energy_of_an_output_is_right_to_a_thousandth() -> None:
    """Also of a change that the Hessian makes small: much smaller than its entries alone would say."""
    x = correlated(500, 260)
    hessian = x.t() @ x
    w = torch.randn(9, 260, generator=torch.Generator().manual_seed(1))
    smooth = (w.double() @ torch.linalg.inv(hessian.double() + 10 * torch.eye(260))).float()
    for each in (w, smooth):
        exact = float((x.double() @ each.double().t()).square().sum())
        assert output_energy(each, hessian) == pytest.approx(exact, rel=1e-3)
    wide = torch.randn(200, 260, generator=torch.Generator().manual_seed(2))
    exact = float((x.double() @ wide.double().t()).square().sum())
    assert output_energy(wide, hessian, coarse=True) == pytest.approx(exact, rel=1e-3)
