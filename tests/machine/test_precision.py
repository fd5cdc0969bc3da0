"""Products with inputs read whole or narrowed: how exact they are, and that no setting outlives them."""

from typing import Any

import pytest
import torch

from langprune_cli.machine.precision import low_precision_inputs, whole_inputs

CPU = torch.device("cpu")
mkldnn: Any = torch.backends.mkldnn


@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 16, 300), (128, 2000, 1024), (700, 64, 513)])
def test_whole_inputs_are_not_rounded(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
    exact = a.double() @ b.double()
    with whole_inputs(CPU):
        plain, strided = a @ b, torch.zeros(rows, columns).addmm_(a.t().contiguous().t(), b)
    for product in (plain, strided):
        assert (product - exact).norm() < 1e-6 * exact.norm()  # of inputs in bfloat16 2e-3


def test_settings_are_set_back_after_an_error_too() -> None:
    before = mkldnn.matmul.fp32_precision
    for context in (whole_inputs(CPU), low_precision_inputs(torch.bfloat16, CPU)):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
        assert mkldnn.matmul.fp32_precision == before


def test_low_precision_is_for_narrow_inputs_alone() -> None:
    with low_precision_inputs(torch.float32, CPU):
        assert mkldnn.matmul.fp32_precision != "bf16"
