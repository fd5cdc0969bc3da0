"""The cost of pruning besides memory: bytes of artifacts, floating-point operations, and time at a measured rate."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import nn

from langprune_cli.allocations.allocation import Allocation
from langprune_cli.allocations.uniform import ALLOCATION as UNIFORM
from langprune_cli.layouts.experts import Expert
from langprune_cli.layouts.linears import linear_shapes
from langprune_cli.models.families import experts_in
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.solvers import admm, conjugate_gradient
from langprune_cli.stages.plan.memory import drift_bytes, sites_of
from langprune_cli.stages.solving.divergences import pieces_of

_ENTRY_BYTES = 130  # per tensor in a file's header: its name, about sixty characters, and its place
# Rows and columns of the products that measure a machine's rate: smaller ones do not keep a GPU busy.
_MEASURED, _MEASURED_ELSEWHERE = 1024, 8192
_LEAST, _MEASURING_SECONDS = 3, 0.2  # of products; other processes may take a core for a while


@dataclass(frozen=True)
class Costs:
    """Bytes on disk, and floating-point operations of `prune` with its default method and propagation."""

    windows_bytes: int
    norms_bytes: int
    hessian_bytes: int  # with the norms
    drift_bytes: int  # beside them, with propagation `corrected`
    mask_bytes: int
    model_bytes: int
    forward_flops: float  # an observed pass, one through the pruned block, with `corrected` also one of the dense model
    hessian_flops: float
    solving_flops: float
    divergence_flops: float  # of an allocation with trials

    @property
    def flops(self) -> float:
        """Return the sum of all operations."""
        return self.forward_flops + self.hessian_flops + self.solving_flops + self.divergence_flops

    def document(self) -> dict[str, float]:
        """Return the figures for --json."""
        return {**vars(self), "flops": self.flops}


def costs(
    dense: CausalModel,
    smaller: CausalModel,
    windows: int,
    seqlen: int,
    *,
    corrected: bool = False,
    allocation: Allocation = UNIFORM,
) -> Costs:
    """Count the cost of pruning `dense` to `smaller`, both without weights, on this many windows.

    corrected: with the propagation of that name, the default for single weights; allocation: of single weights.

    Sites are those of `sites_of`. In a window of t tokens of width h, each token costs 2 r i operations in a linear of r rows
    and i inputs, 2 t h in attention, and i (i + 1) for half of x xᵀ. Factoring a site costs i^3, and each step of ADMM and of
    the conjugate gradient after it r i^2 twice.

    An allocation that needs statistics takes those of the dense model first. With trials, pieces of windows then go forward and
    back, with a block's pass computed again for its gradients, by inputs and by weights; those of each piece are multiplied by
    what each trial changes.
    """
    tokens = windows * seqlen
    routed = _share_of_an_expert(dense.config.get_text_config())
    per_token = pass_flops(dense, seqlen)
    norms = hessians = drifts = masks = 0
    products = solving = divergences = 0.0
    trials, (pieces, length) = allocation.trials, pieces_of(windows, seqlen)
    for block in find_blocks(dense)[1]:
        drifts += drift_bytes(dense, block) if corrected else 0
        for rows, inputs, share in _sites(block, routed):
            norms += 16 * inputs + 8 + 3 * _ENTRY_BYTES
            hessians += 2 * inputs * (inputs + 1) + _ENTRY_BYTES
            masks += rows * -(-inputs // 8) + _ENTRY_BYTES
            products += share * tokens * inputs * (inputs + 1)
            solving += inputs**3 + 2 * (admm.STEPS + conjugate_gradient.STEPS) * rows * inputs**2
            if trials:
                divergences += 2 * len(trials.sparsities) * rows * inputs * (pieces + trials.steps * inputs)
    forward = tokens * (per_token.linears + per_token.attention)
    passes = 3 if corrected else 2
    passes += allocation.needs != "nothing"
    products *= 2 if allocation.needs == "hessian" else 1
    solving *= 1 + allocation.prunings
    if trials:
        each = pass_flops(dense, length)
        divergences += pieces * length * (4 * each.linears + 4 * each.attention + 2 * each.head)
    return Costs(
        4 * tokens, norms, norms + hessians, drifts, masks, _bytes(smaller), passes * forward, products, solving,
        divergences,
    )  # fmt: skip


@dataclass(frozen=True)
class PassFlops:
    """Floating-point operations of one token's pass through a model."""

    linears: float  # of the blocks
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """Return the sum."""
        return self.linears + self.attention + self.head


def pass_flops(model: CausalModel, seqlen: int) -> PassFlops:
    """Count the operations of a token's pass in a window of `seqlen` tokens, as `costs` does."""
    text = model.config.get_text_config()
    blocks, routed = find_blocks(model)[1], _share_of_an_expert(text)
    sites = (site for block in blocks for site in _sites(block, routed))
    linears = sum(2 * share * rows * inputs for rows, inputs, share in sites)
    return PassFlops(linears, 2 * seqlen * text.hidden_size * len(blocks), 2 * text.hidden_size * text.vocab_size)


def token_costs(smaller: nn.Module, rows: int, stay: int) -> Costs:
    """Count the cost of pruning only tokens, from `rows` to `stay`: counts and ids, of 8 bytes each.

    No text runs through the model: the tokenizer counts.
    """
    counts = 8 * rows + _ENTRY_BYTES
    return Costs(0, counts, counts, 0, 8 * stay + _ENTRY_BYTES, _bytes(smaller), 0.0, 0.0, 0.0, 0.0)


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())


def _sites(block: nn.Module, routed: float) -> Iterator[tuple[int, int, float]]:
    """Yield (rows, inputs, share of the tokens) of a block's sites; an expert sees only the tokens routed to it."""
    for module, shapes in linear_shapes(block):
        share = routed if isinstance(module, Expert) else 1.0
        yield from ((rows, inputs, share) for rows, inputs in sites_of(shapes))


def _share_of_an_expert(text: Configuration) -> float:
    experts = experts_in(text)
    return (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts else 1.0


def measured_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the floating-point operations per second of a large matrix product on this machine; takes a fifth of a second."""
    if device.type == "cpu" and dtype == torch.float16:  # hundreds of times slower there, so nobody uses it
        dtype = torch.float32
    width = _MEASURED if device.type == "cpu" else _MEASURED_ELSEWHERE
    a = torch.ones(width, width, dtype=dtype, device=device)
    best, begun = 0.0, time.perf_counter()
    for number in count():  # the first product chooses and compiles a kernel
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = max(best, 2 * width**3 / (time.perf_counter() - start))
        if number >= _LEAST and time.perf_counter() - begun > _MEASURING_SECONDS:
            break
    return best
