"""Search: leaves out each run of consecutive blocks in turn, and removes the run whose absence costs the least loss."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.depth_methods.method import Depth, DepthMethod, blocks_that_stay, free_blocks, without
from langprune_cli.errors import LangpruneError
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.losses import window_losses
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, Tick

# The hidden states of a search may take this much memory, or twice the dense hidden states if that is more.
_LEAST_BYTES = 1 << 30


@dataclass(frozen=True)
class Searched:
    """The loss on the calibration windows without each run of `count` consecutive blocks."""

    count: int
    dense: float  # nats per predicted token of the whole model
    runs: tuple[tuple[int, float], ...]  # (first block left out, nats per predicted token without the run), best first


def choose(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    sparsity: float,
    reporter: Reporter,
) -> Depth:
    """Remove the run of blocks without which the model predicts the calibration windows best.

    Raises LangpruneError as `blocks_that_stay` and `search_windows` do, and if the loss is infinite without any run.
    """
    total = len(model.streamed.blocks)
    count = total - blocks_that_stay(total, sparsity)
    free = free_blocks(model, count)
    allowed = [first for first in range(total - count + 1) if {*range(first, first + count)} <= {*free}]
    if not allowed:
        raise LangpruneError(
            f"no run of {count} blocks of {model.label} can leave, since this {model.config.model_type} puts what it sees of "
            "images between its blocks by their numbers: remove fewer, or use --method influence"
        )
    found = search_windows(model, windows, count, reporter)
    first, best = next(run for run in found.runs if run[0] in allowed)
    if not math.isfinite(best):
        raise LangpruneError(
            f"the loss of {model.label} is infinite without any run of {found.count} blocks: compute in another dtype, such as "
            "--dtype float32"
        )
    runs = [{"first": start, "nats": nats if math.isfinite(nats) else None} for start, nats in found.runs]
    return without(
        total, list(range(first, first + found.count)), {"method": "search", "dense_nats": found.dense, "runs": runs}
    )


def search_windows(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    count: int,
    reporter: Reporter,
) -> Searched:
    """Leave out each run of `count` consecutive blocks in turn, and return the loss on the windows without it.

    The other blocks are called as in the dense model (rotary embeddings, full or sliding masks). All runs go through the model
    together, so each block is loaded once, and the dense blocks before a run are computed once. Memory: one block, and hidden
    states of (blocks - count + 2) models; the windows are split so that these take at most twice the dense hidden states of
    all windows, or 1 GiB if that is more, but at least one window goes at a time.

    Raises LangpruneError for windows of a single token, and if the dense loss is not finite. NaN without a run counts as an
    infinite loss.
    """
    total = len(model.streamed.blocks)
    if not 0 < count < total:
        raise ValueError(f"cannot leave out {count} of {total} blocks")
    if windows.shape[1] < 2:
        raise LangpruneError("windows of one token have nothing to predict: give longer ones")
    after = total - count  # blocks after the first run; one fewer for each later run
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
    """Return the number of windows to run at a time: whole micro-batches, as in `eval`, if at least one fits."""
    count, length = windows.shape
    each = length * model.streamed.config.get_text_config().hidden_size * model.streamed.dtype.itemsize
    fit: int = max(2 * count * each, _LEAST_BYTES) // (streams * each)
    batch = max(1, model.compute.batch_tokens // length)
    return max(1, fit // batch * batch or fit)


def _nats_without(states: HiddenStates, count: int, tick: Tick) -> Tensor:  # float64 [1 + starts]
    """Return the summed loss of the dense model, then without the run that starts at block 0, 1, ..."""
    model = states.model
    total = len(model.blocks)
    streams = [
        states.hidden
    ]  # the dense model's, then one for each run that has begun; they share tensors until they differ
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
    losses = window_losses(states)  # loads the head once
    return torch.stack([torch.cat(losses[first : first + batches]).sum() for first in range(0, len(losses), batches)])


METHOD = DepthMethod("search", "", choose, by_losses=True)
