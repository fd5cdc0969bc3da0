"""Which dtype products are in when nobody says so."""

import pytest
import torch

from langprune_cli.streaming.compute import fast_dtype, slow_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "matrix_units", "kernels", "slow"),
    [
        ("Intel Xeon", False, "AVX512", True),  # half the rate of float32
        ("Intel Xeon", True, "AVX512", False),
        ("AMD EPYC", False, "AVX512", False),
        ("AMD EPYC", False, "AVX2", True),  # emulated
        ("Neoverse V1", False, "DEFAULT", False),
    ],
)
def test_bfloat16_is_for_cpus_that_are_fast_at_it(
    name: str,
    matrix_units: bool,  # noqa: FBT001 - of a table
    kernels: str,
    slow: bool,  # noqa: FBT001 - of a table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch's own answers stand in for processors that are not here."""
    known = {"cpu_name": name, "amx_bf16": matrix_units}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    assert slow_bfloat16(CPU) == slow
    assert fast_dtype(torch.bfloat16, CPU) == (torch.float32 if slow else torch.bfloat16)
    assert fast_dtype(torch.float32, CPU) == torch.float32


def test_a_torch_that_does_not_name_its_cpu_says_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not slow_bfloat16(CPU)
