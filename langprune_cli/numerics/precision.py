"""Products of float32 matrices that read their inputs in the narrower form that they came in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def low_precision_inputs(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Let float32 products read inputs in the narrower form that they came in, and still add and give out float32.

    Numbers that came as bfloat16 are exact in it, and bfloat16 and float16 in TF32: nothing is lost but time saved, two
    to four times. What was set before is set again afterwards.
    """
    mkldnn: Any = torch.backends.mkldnn
    backend, precision = {
        ("cpu", torch.bfloat16): (mkldnn.matmul, "bf16"),
        ("cuda", torch.bfloat16): (torch.backends.cuda.matmul, "tf32"),
        ("cuda", torch.float16): (torch.backends.cuda.matmul, "tf32"),
    }.get((device.type, dtype), (None, ""))
    if backend is None:
        yield
        return
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
