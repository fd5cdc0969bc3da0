"""How a model is run: its dtype, device, memory and processes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from langprune_cli.defaults import BATCH_TOKENS
from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.machine.team import ALONE, Team

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """How a model is run."""

    dtype: str | None = "auto"  # auto or, in commands without --dtype, None: the checkpoint's own
    device: str = "auto"  # auto: cuda if there is one
    batch_tokens: int = BATCH_TOKENS
    cache_dir: Path | None = None
    trust_remote_code: bool = False
    all_experts: bool = False  # whether every expert of a mixture sees every token
    fetch: bool = True  # whether models missing on this machine are fetched from the hub
    max_memory: int | None = None  # bytes of hidden states in memory; larger ones go to a file
    team: Team = ALONE  # the processes that run the stage together, each on its share of the windows

    def torch_device(self) -> torch.device:
        """Return the device; raises LangpruneError if this machine lacks it."""
        if self.device == "auto":
            own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # one for each process that torchrun starts
            return torch.device(own if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device).cpu()  # fails on meta, which holds no data
        except (RuntimeError, AssertionError) as error:
            raise LangpruneError(f"this machine has no --device {self.device}: use cpu or auto") from error
        return device

    def torch_dtype(self) -> torch.dtype | None:
        """Return the dtype of computation, None for the checkpoint's own; raises UsageError for an unknown name."""
        if self.dtype is None or self.dtype == "auto":
            return None
        if self.dtype not in _DTYPES:
            raise UsageError(f"--dtype {self.dtype!r} is unknown: {near_matches(self.dtype, [*_DTYPES, 'auto'])}")
        return _DTYPES[self.dtype]


def fast_dtype(own: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of products of a model in `own`: bfloat16 for 16 bits where that is not slower, else float32."""
    return torch.float32 if own.itemsize > 2 or slow_bfloat16(device) else torch.bfloat16


def slow_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices more slowly than float32 ones.

    x86 CPUs without AVX-512 emulate it. Intel's multiply at half the rate of float32 unless they have matrix units (AMX), which
    virtual machines may hide.
    """
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # from torch 2.12 on
    plain_intel = "Intel" in known.get("cpu_name", "") and not known.get("amx_bf16")
    return plain_intel or torch.backends.cpu.get_cpu_capability() == "AVX2"
