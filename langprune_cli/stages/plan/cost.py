"""What a pruning takes beside memory: bytes of every artifact, floating-point operations, and the time at a measured rate."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import nn

from langprune_cli.models.experts import Expert
from langprune_cli.models.families import experts_in
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.solvers import admm, conjugate_gradient
from langprune_cli.stages.plan.memory import linear_shapes, sites_of

_ENTRY_BYTES = 130  # of a tensor in a file's header: its name, about sixty characters, and where it lies
# Rows and columns of the products that a machine's rate is measured with: smaller ones end before a GPU is at work.
_MEASURED, _MEASURED_ELSEWHERE = 1024, 8192
_LEAST, _MEASURING_SECONDS = 3, 0.2  # of them; other processes take a core for a while


@dataclass(frozen=True)
class Costs:
    """Bytes on disk, and floating-point operations of `prune` with its default method and propagation."""

    windows_bytes: int
    norms_bytes: int
    hessian_bytes: int  # with the norms
    mask_bytes: int
    model_bytes: int
    forward_flops: float  # two passes: one that is watched, one through the pruned block
    hessian_flops: float
    solving_flops: float

    @property
    def flops(self) -> float:
        """Return all operations together."""
        return self.forward_flops + self.hessian_flops + self.solving_flops

    def document(self) -> dict[str, float]:
        """Return the figures as --json shows them."""
        return {**vars(self), "flops": self.flops}


def costs(dense: CausalModel, smaller: CausalModel, windows: int, seqlen: int) -> Costs:
    """Count what pruning `dense` to `smaller` takes, both without weights, on so many windows.

    Sites as `plan_memory` tells them. A token of t, h wide, costs 2 r i operations in a linear of r rows and i inputs, and
    2 t h in attention; x xᵀ, of which half is computed, i (i + 1). A site is factored (i^3), and for every step of ADMM and of
    the conjugate gradient that follow, r i^2 twice.
    """
    tokens = windows * seqlen
    text = dense.config.get_text_config()
    hidden, routed = text.hidden_size, _share_of_an_expert(text)
    norms = hessians = masks = 0
    forward = products = solving = 0.0
    for block in find_blocks(dense)[1]:
        for rows, inputs, share in _sites(block, routed):
            norms += 16 * inputs + 8 + 3 * _ENTRY_BYTES
            hessians += 2 * inputs * (inputs + 1) + _ENTRY_BYTES
            masks += rows * -(-inputs // 8) + _ENTRY_BYTES
            forward += 2 * share * tokens * rows * inputs
            products += share * tokens * inputs * (inputs + 1)
            solving += inputs**3 + 2 * (admm.STEPS + conjugate_gradient.STEPS) * rows * inputs**2
        forward += 2 * tokens * seqlen * hidden
    return Costs(4 * tokens, norms, norms + hessians, masks, _bytes(smaller), 2 * forward, products, solving)


def token_costs(smaller: nn.Module, rows: int, stay: int) -> Costs:
    """Count what it takes to let tokens alone leave, `rows` of them before and `stay` after: counts and ids, of 8 bytes each.

    Nothing goes through the model: the tokenizer counts.
    """
    counts = 8 * rows + _ENTRY_BYTES
    return Costs(0, counts, counts, 8 * stay + _ENTRY_BYTES, _bytes(smaller), 0.0, 0.0, 0.0)


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())


def _sites(block: nn.Module, routed: float) -> Iterator[tuple[int, int, float]]:
    """Yield (rows, inputs, share of the tokens) of a block's sites: an expert sees those that are routed to it."""
    for module, shapes in linear_shapes(block):
        share = routed if isinstance(module, Expert) else 1.0
        yield from ((rows, inputs, share) for rows, inputs in sites_of(shapes))


def _share_of_an_expert(text: Configuration) -> float:
    experts = experts_in(text)
    return (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts else 1.0


def measured_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return how many floating-point operations a second a large product of matrices makes here; takes a fifth of a second."""
    if device.type == "cpu" and dtype == torch.float16:  # hundreds of times slower there: nobody would compute in it
        dtype = torch.float32
    width = _MEASURED if device.type == "cpu" else _MEASURED_ELSEWHERE
    a = torch.ones(width, width, dtype=dtype, device=device)
    best, begun = 0.0, time.perf_counter()
    for number in count():  # the first one chooses and compiles a kernel
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = max(best, 2 * width**3 / (time.perf_counter() - start))
        if number >= _LEAST and time.perf_counter() - begun > _MEASURING_SECONDS:
            break
    return best
