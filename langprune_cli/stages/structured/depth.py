"""Depth pruning: which whole blocks stay (`--pattern blocks`), judged on calibration windows alone."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.patterns import prune_count
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.losses import window_losses
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, Tick, walk

# What the hidden states of a search may take where twice those of all windows are less than that.
_LEAST_BYTES = 1 << 30


@dataclass(frozen=True)
class Depth:
    """Which blocks stay, and the figures that it was decided by."""

    blocks: tuple[int, ...]  # that stay, ascending
    record: dict[str, Any]  # ready for JSON: "method", "removed" (block indices), and what the method measured


@dataclass(frozen=True)
class Searched:
    """What leaving out each run of `count` consecutive blocks does to the loss on the calibration windows."""

    count: int
    dense: float  # nats per predicted token of the whole model
    runs: tuple[tuple[int, float], ...]  # (first block left out, nats per predicted token without the run), best first


DepthMethod = Callable[[OpenedModel, Tensor, float, Reporter], Depth]  # (model, windows [n, t], sparsity, reporter)


def blocks_that_stay(total: int, sparsity: float) -> int:
    """Return how many of `total` blocks stay: the whole part of total x sparsity goes.

    Raises LangpruneError when that would remove none, or all.
    """
    removed = prune_count(total, sparsity)
    if not removed:
        raise LangpruneError(
            f"--sparsity {sparsity:g} removes none of {total} blocks: give {math.ceil(1000 / total) / 1000:g} or more"
        )
    if removed == total:
        raise LangpruneError(f"--sparsity {sparsity:g} removes all {total} blocks: at least one must stay, give less")
    return total - removed


def by_influence(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    sparsity: float,
    reporter: Reporter,
) -> Depth:
    """Remove the blocks of least influence, wherever they lie (ShortGPT, arXiv 2403.03853, section 3); of equals the earlier.

    Raises LangpruneError as `blocks_that_stay` and `block_influence` do.
    """
    total = len(model.streamed.blocks)
    count = total - blocks_that_stay(total, sparsity)
    influence = block_influence(model, windows, model.compute.batch_tokens, reporter)
    removed = sorted(sorted(range(total), key=influence.__getitem__)[:count])
    return _without(total, removed, {"method": "influence", "influence": influence})


def by_search(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    sparsity: float,
    reporter: Reporter,
) -> Depth:
    """Remove the consecutive blocks without which the model predicts the calibration windows best.

    Raises LangpruneError as `blocks_that_stay` and `search_windows` do, and where no run can be left out at all.
    """
    total = len(model.streamed.blocks)
    found = search_windows(model, windows, total - blocks_that_stay(total, sparsity), reporter)
    first, best = found.runs[0]
    if not math.isfinite(best):
        raise LangpruneError(
            f"the loss of {model.label} is not finite whichever run of {found.count} blocks is left out: compute in another "
            "dtype, such as --dtype float32"
        )
    runs = [{"first": start, "nats": nats if math.isfinite(nats) else None} for start, nats in found.runs]
    return _without(
        total, list(range(first, first + found.count)), {"method": "search", "dense_nats": found.dense, "runs": runs}
    )


DEPTH_METHODS: dict[str, DepthMethod] = {"influence": by_influence, "search": by_search}


def depth_method(name: str) -> DepthMethod:
    """Return the way to choose blocks called `name`; raises LangpruneError for an unknown one."""
    if name not in DEPTH_METHODS:
        raise LangpruneError(f"{name!r} is no method for --pattern blocks: {near_matches(name, DEPTH_METHODS)}")
    return DEPTH_METHODS[name]


def block_influence(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    batch_tokens: int,
    reporter: Reporter,
) -> list[float]:
    """Return the influence of each block: 1 - the mean over tokens of cos(its input, its output).

    ShortGPT (arXiv 2403.03853), equation 1. One pass; memory is one block and the hidden states. Raises LangpruneError for
    hidden states that are not finite.
    """
    blocks = len(model.streamed.blocks)
    sums = torch.zeros(blocks, dtype=torch.float64)

    @contextmanager
    def watch(block: Block) -> Iterator[None]:
        def see(_module: Any, args: tuple[Tensor, ...], output: Any) -> None:  # noqa: ANN401 - a hook's signature
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
    """Return the cosine of each token's vectors; float64, since late blocks hardly turn them and 1 - cos cancels."""
    x, y = x.double(), y.double()
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    size = (xx * yy).sqrt()  # of equal x and y exactly their square, so that a block which changes nothing has 0
    return torch.where(size == 0, (xx == yy).double(), (x * y).sum(-1) / size)  # a zero that stays zero is not turned


def search_windows(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    count: int,
    reporter: Reporter,
) -> Searched:
    """Leave out every run of `count` consecutive blocks in turn, and return the loss on the windows without it.

    Blocks that stay are called as the dense model calls them (rotary embeddings, full or sliding masks). All runs go
    through the model side by side, so that a block is loaded once for all and the dense blocks before a run are computed
    once. Memory: one block, and hidden states of (blocks - count + 2) models; as many windows go at a time as let these
    take no more than twice the dense hidden states of all windows, or 1 GiB where that is more, one window at the least.

    Raises LangpruneError for windows of a single token, and for a dense loss that is not finite. A loss without a run
    that is not finite is infinite.
    """
    total = len(model.streamed.blocks)
    if not 0 < count < total:
        raise ValueError(f"{count} of {total} blocks is not some of them")
    if windows.shape[1] < 2:
        raise LangpruneError("windows of one token predict nothing that is known: give longer ones")
    after = total - count  # blocks behind the run for the first start, one fewer for each next
    passes = total + after * (after + 1) // 2
    reporter.begin(f"leaving out {count} of {total} blocks of {model.label}", total, windows.numel() * passes)
    sums = torch.zeros(after + 2, dtype=torch.float64)
    for part in torch.split(windows, _windows_at_once(model, windows, after + 2)):
        sums += _nats_without(HiddenStates(model.streamed, part, model.compute.batch_tokens), count, reporter.tick)
    reporter.end()
    dense, *without = (sums / (windows.shape[0] * (windows.shape[1] - 1))).tolist()
    if not math.isfinite(dense):
        raise LangpruneError(
            f"the loss of {model.label} is not finite: compute in another dtype, such as --dtype float32"
        )
    nats = [each if math.isfinite(each) else math.inf for each in without]
    return Searched(count, dense, tuple(sorted(enumerate(nats), key=lambda run: run[1])))


def _windows_at_once(model: OpenedModel, windows: Tensor, streams: int) -> int:
    """Return how many windows to search with at a time: whole micro-batches where that is one or more, as `eval` has them."""
    count, length = windows.shape
    each = length * model.streamed.config.get_text_config().hidden_size * model.streamed.dtype.itemsize
    fit: int = max(2 * count * each, _LEAST_BYTES) // (streams * each)
    batch = max(1, model.compute.batch_tokens // length)
    return max(1, fit // batch * batch or fit)


def _nats_without(states: HiddenStates, count: int, tick: Tick) -> Tensor:  # float64 [1 + starts]
    """Return the summed loss of the dense model, then of the model without the run that starts at block 0, 1, ..."""
    model = states.model
    total = len(model.blocks)
    streams = [states.hidden]  # of the dense model, then of each run that has begun; tensors are shared till they part
    for index in range(total):
        if index <= total - count:
            streams.append(list(streams[0]))
        with model.block(index) as block:
            for number, hidden in enumerate(streams):
                if number == 0 or index >= number - 1 + count:
                    states.hidden = hidden
                    states.forward(block, tick=tick)
    batches = len(states.ids)
    states.ids, states.hidden = states.ids * len(streams), [each for hidden in streams for each in hidden]
    losses = window_losses(states)  # the head is loaded once for all of them
    return torch.stack([torch.cat(losses[first : first + batches]).sum() for first in range(0, len(losses), batches)])


def _without(total: int, removed: list[int], figures: dict[str, Any]) -> Depth:
    stay = tuple(index for index in range(total) if index not in removed)
    return Depth(stay, figures | {"removed": removed})
