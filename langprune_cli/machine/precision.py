"""Faster float32 products: low precision for inputs that came in it, and the faster library for all others on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Protocol

import torch

_STEP = 512


class _Backend(Protocol):
    """The part of torch.backends with the precision of products."""

    fp32_precision: str


@contextmanager
def low_precision_inputs(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Let float32 products read inputs in their original low precision, and still accumulate and return float32.

    Inputs that came as bfloat16 are exact in bfloat16, and bfloat16 and float16 are exact in TF32: nothing is lost, and
    products are two to four times as fast. Restores the previous setting afterwards.
    """
    backend, precision = {
        ("cpu", torch.bfloat16): (_onednn(), "bf16"),
        ("cuda", torch.bfloat16): (torch.backends.cuda.matmul, "tf32"),
        ("cuda", torch.float16): (torch.backends.cuda.matmul, "tf32"),
    }.get((device.type, dtype), (None, ""))
    with _set(backend, precision) if backend else nullcontext():
        yield


@contextmanager
def whole_inputs(device: torch.device) -> Iterator[None]:
    """Use oneDNN for large float32 products on a CPU, if it reads their inputs unrounded as MKL does.

    MKL uses AVX-512 only on processors of its own maker; on others oneDNN takes half the time. torch calls oneDNN only if it
    may round inputs to bfloat16, and it does so only on CPUs with units for bfloat16 matrices. Small products, and products
    with vectors, are slower in oneDNN.
    """
    with _set(_onednn(), "bf16") if device.type == "cpu" and _reads_whole() else nullcontext():
        yield


def in_steps(start: int, stop: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of `start` to `stop` for a product whose size changes from call to call.

    On a CPU the slices have few sizes: each new shape costs oneDNN milliseconds, and most of a megabyte for good.
    """
    step = _STEP if device.type == "cpu" else max(1, stop - start)
    for left in range(start, stop, step):
        yield slice(left, min(left + step, stop))


@cache
def _reads_whole() -> bool:
    """Return whether oneDNN's products are exact even when it may round inputs."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    with _set(_onednn(), "bf16"):
        wrong = a @ b - exact
    return bool(wrong.norm() < 1e-5 * exact.norm())  # 3e-7 for float32 inputs, 3e-4 for TF32, 2e-3 for bfloat16


@contextmanager
def _set(backend: _Backend, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before


def _onednn() -> _Backend:
    backend: _Backend = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # a module that replaces itself at import
    return backend
