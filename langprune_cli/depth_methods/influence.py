"""Influence: removes the blocks that change their input's direction least (ShortGPT, Men et al., arXiv 2403.03853)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from langprune_cli.depth_methods.method import Depth, DepthMethod, blocks_that_stay, free_blocks, without
from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import Block
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, walk


def choose(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    sparsity: float,
    reporter: Reporter,
) -> Depth:
    """Remove the blocks of least influence, the earlier one of equals (ShortGPT, arXiv 2403.03853, section 3).

    Raises LangpruneError as `blocks_that_stay` and `block_influence` do.
    """
    total = len(model.streamed.blocks)
    count = total - blocks_that_stay(total, sparsity)
    free = free_blocks(model, count)
    influence = block_influence(model, windows, model.compute.batch_tokens, reporter)
    removed = sorted(sorted(free, key=influence.__getitem__)[:count])
    return without(total, removed, {"method": "influence", "influence": influence})


def block_influence(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    batch_tokens: int,
    reporter: Reporter,
) -> list[float]:
    """Return the influence of each block: 1 - the mean over tokens of cos(its input, its output).

    ShortGPT (arXiv 2403.03853), equation 1. Takes one pass. Memory: one block and the hidden states. Raises LangpruneError for
    hidden states that are not finite.
    """
    blocks = len(model.streamed.blocks)
    sums = torch.zeros(blocks, dtype=torch.float64)

    @contextmanager
    def watch(block: Block) -> Iterator[None]:
        def see(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            sums[block.index] += _cosines(args[0], output if isinstance(output, Tensor) else output[0]).sum().cpu()

        handle = block.module.register_forward_hook(see)
        try:
            yield
        finally:
            handle.remove()

    reporter.begin(f"influence of the blocks of {model.label}", blocks, windows.numel() * blocks)
    for block in walk(HiddenStates(model.streamed, windows, batch_tokens), observe=watch, tick=reporter.tick):
        if not torch.isfinite(sums[block.index]):
            raise LangpruneError(
                f"block {block.index}: its input or output is not finite: compute in another dtype, such as --dtype "
                "float32, and check the checkpoint"
            )
    reporter.end()
    influence: list[float] = (1 - sums / windows.numel()).tolist()
    return influence


def _cosines(
    x: Tensor,  # [b, t, h]
    y: Tensor,  # [b, t, h]
) -> Tensor:  # float64 [b, t]
    """Return the cosine of each token's vectors, in float64: late blocks hardly turn them, so 1 - cos cancels."""
    x, y = x.double(), y.double()
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    size = (xx * yy).sqrt()  # exactly the square of equal x and y, so that a block without effect has influence 0
    return torch.where(
        size == 0, (xx == yy).double(), (x * y).sum(-1) / size
    )  # a zero that stays zero counts as unchanged


METHOD = DepthMethod("influence", "https://arxiv.org/abs/2403.03853", choose)
