"""Products of float32 matrices: with inputs in the narrower form that they came in, and whole ones at a CPU's full rate."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Protocol

import torch

_STEP = 512


class _Backend(Protocol):
    """What of torch.backends makes products of matrices."""

    fp32_precision: str


@contextmanager
def low_precision_inputs(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Let float32 products read inputs in the narrower form that they came in, and still add and give out float32.

    Numbers that came as bfloat16 are exact in it, and bfloat16 and float16 in TF32: nothing is lost but time saved, two
    to four times. What was set before is set again afterwards.
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
    """Let large float32 products on a CPU be made by oneDNN, where it reads their inputs whole as MKL does.

    MKL uses AVX-512 on processors of its own maker alone: elsewhere oneDNN makes the same products in half the time. torch
    calls it only where inputs may be rounded to bfloat16, which oneDNN then does where a CPU has units for
    matrices of it, and nowhere else. Small products, and such with a vector, are slower in it.
    """
    with _set(_onednn(), "bf16") if device.type == "cpu" and _reads_whole() else nullcontext():
        yield


def in_steps(start: int, stop: int, device: torch.device) -> Iterator[slice]:
    """Yield the slices of `start` to `stop` in which to make a product whose size changes from one call to the next.

    On a CPU these have few sizes: a shape that oneDNN has not seen costs milliseconds, and most of a megabyte for good.
    """
    step = _STEP if device.type == "cpu" else max(1, stop - start)
    for left in range(start, stop, step):
        yield slice(left, min(left + step, stop))


@cache
def _reads_whole() -> bool:
    """Return whether oneDNN, when it may round inputs, makes products as exact as those of inputs that are not."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    with _set(_onednn(), "bf16"):
        wrong = a @ b - exact
    return bool(wrong.norm() < 1e-5 * exact.norm())  # float32 leaves 3e-7 of it, inputs in TF32 3e-4, in bfloat16 2e-3


@contextmanager
def _set(backend: _Backend, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before


def _onednn() -> _Backend:
    backend: _Backend = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # a module that replaces itself
    return backend
