"""Converts a model's 2:4 linears to torch's semi-structured tensors: `eval --semi-structured`.

Tensor cores of compute capability 8.0 and later multiply packed 2:4 matrices (two of every four consecutive weights of an
output are zero) at up to twice the rate. Checkpoints store no packed form; it is made here from the dense weights.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured
from transformers.pytorch_utils import Conv1D

from langprune_cli.errors import LangpruneError, first_line

# Supported by both of torch's backends: `_DTYPE_SHAPE_CONSTRAINTS` of CUTLASS in torch/sparse/semi_structured.py, which are
# stricter than cuSPARSELt's (16 and 16, no float32).
_DTYPES = (torch.float16, torch.bfloat16)
_ROWS, _COLUMNS = 32, 64
_CAPABILITY = (8, 0)
NO_KERNELS = (
    "Nothing on this device accelerates 2:4: torch's kernels for it need CUDA with compute capability 8.0 or later, and a "
    "model's zeros are stored dense. --semi-structured adds no row."
)
NO_LINEARS = "No linear of these models is 2:4 sparse: prune one with --pattern 2:4 for --semi-structured to add a row."
STAYS_DENSE = (
    "Linears stay dense if torch's 2:4 kernels do not support them: these need float16 or bfloat16, outputs a multiple of "
    f"{_ROWS} and inputs of {_COLUMNS}."
)


@dataclass(frozen=True)
class Twin:
    """A copy of a model with its supported 2:4 linears in packed form; it shares everything else with the model."""

    model: nn.Module
    converted: int
    linears: int  # 2:4 linears, converted or not


def accelerates(device: torch.device) -> bool:
    """Return whether a device has torch's 2:4 kernels."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _CAPABILITY


def is_two_of_four(
    weight: Tensor,  # [o, i]
) -> bool:
    """Return whether at least two of every four consecutive weights of an output are zero."""
    rows, columns = weight.shape
    if not weight.numel() or columns % 4:
        return False
    zeros = (weight == 0).reshape(rows, columns // 4, 4).sum(-1, dtype=torch.uint8)
    return bool((zeros >= 2).all())


def kernels_take(linear: nn.Module) -> bool:
    """Return whether torch's kernels support a 2:4 linear: a plain one of a supported dtype and shape."""
    if type(linear) is not nn.Linear:
        return False
    rows, columns = linear.weight.shape
    return linear.weight.dtype in _DTYPES and rows % _ROWS == 0 and columns % _COLUMNS == 0


def two_of_four_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Return the 2:4 sparse linears of a loaded model, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            weight: Tensor = module.weight.t() if isinstance(module, Conv1D) else module.weight
            if is_two_of_four(weight.detach()):
                found[name] = module
    return found


def semi_structured_twin(
    model: nn.Module,
    convert: Callable[[Tensor], Tensor] = to_sparse_semi_structured,  # [o, i] -> the same in packed form
) -> Twin | None:
    """Return a loaded model's twin, None if it has no 2:4 sparse linear."""
    linears = two_of_four_linears(model)
    if not linears:
        return None
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    taken = [name for name, linear in linears.items() if kernels_take(linear)]
    for name in taken:
        linear = twin.get_submodule(name)
        dense: Tensor = linear.weight.data  # type: ignore[assignment] # a Parameter
        linear.weight = nn.Parameter(convert(dense.contiguous()), requires_grad=False)
    return Twin(twin, len(taken), len(linears))


def held_bytes(parameter: Tensor) -> int:
    """Return the bytes of a parameter in memory."""
    if not isinstance(parameter, SparseSemiStructuredTensor):
        return parameter.numel() * parameter.element_size()
    inner = (getattr(parameter, name) for name in parameter.__tensor_flatten__()[0])  # the backend's own tensors
    return sum(each.numel() * each.element_size() for each in inner)


@contextmanager
def kernel_errors(label: str) -> Iterator[None]:
    """Turn errors of torch's kernels into LangpruneError: their API is a prototype, and each backend has gaps."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise LangpruneError(
            f"torch's 2:4 kernels do not run {label} here ({first_line(error)}): measure without --semi-structured"
        ) from error
