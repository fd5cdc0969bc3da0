"""Loads whole models with transformers, as users do, after checking the free memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers.utils import logging

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.composites import auto_class
from langprune_cli.models.skeleton import read_config
from langprune_cli.models.tensor_entry import DTYPES
from langprune_cli.store.written import Written

_MEMORY = Path("/proc/meminfo")


def weight_bytes(folder: Path, dtype: torch.dtype | None) -> int:
    """Return the bytes of a checkpoint's tensors in `dtype`, None for their own; raises LangpruneError as `Checkpoint` does."""
    checkpoint = Checkpoint(folder)
    return sum(
        checkpoint.elements(name) * (dtype or DTYPES[entry.dtype]).itemsize
        for name, entry in checkpoint.entries.items()
    )


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device, None if unknown."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        # Memory that torch holds but no tensor uses is free too.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # not on every system
        return None


def check_memory(sizes: dict[str, int], device: torch.device) -> None:
    """Raise LangpruneError if the weights alone, by the models' labels, take more memory than is free."""
    free, need = free_bytes(device), sum(sizes.values())
    if free is not None and need > free:
        raise LangpruneError(
            f"the weights of {' and '.join(sizes)} need {need:,} bytes of memory, and {free:,} are free on {device.type}: close "
            "other programs, choose a smaller --dtype, or measure on another machine"
        )


def load_whole(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    trust: bool,
    quantization: object = None,  # a configuration of transformers; weights then go straight to the device
) -> nn.Module:
    """Load a model as its users do, tensor by tensor; raises LangpruneError if transformers cannot."""
    quantized = {"quantization_config": quantization, "device_map": {"": str(device)}} if quantization else {}
    Written(folder).check_all()
    kind = auto_class(read_config(folder, trust_remote_code=trust))
    with _no_bars():
        try:
            model: nn.Module = kind.from_pretrained(
                folder, dtype=dtype or "auto", local_files_only=True, use_safetensors=True, trust_remote_code=trust,
                **quantized,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
            raise LangpruneError(
                f"{folder} does not load in transformers ({first_line(error)}): check the model"
            ) from error
    return model.eval() if quantized else model.eval().to(device)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Turn transformers' own progress bars off."""
    shown = logging.is_progress_bar_enabled()
    restore: Callable[[], None] = logging.enable_progress_bar if shown else logging.disable_progress_bar
    logging.disable_progress_bar()
    try:
        yield
    finally:
        restore()
