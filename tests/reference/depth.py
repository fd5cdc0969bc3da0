"""Depth pruning on a whole stock model: influence of its blocks in Python's floats, and its loss with blocks deleted."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.sites import SITES


def blocks_of(model: Any, family: str) -> nn.ModuleList:
    found: nn.ModuleList = model.get_submodule(SITES[family][0])
    return found


def literal_influence(model: Any, family: str, ids: Tensor) -> list[float]:
    """Window by window and token by token, in Python's floats."""
    seen: list[list[float]] = []
    handles = []
    for block in blocks_of(model, family):
        cosines: list[float] = []
        seen.append(cosines)

        def look(_module: Any, args: Any, output: Any, cosines: list[float] = cosines) -> None:
            after = output if isinstance(output, Tensor) else output[0]
            for x, y in zip(args[0][0].tolist(), after[0].tolist(), strict=True):
                dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
                cosines.append(dot / math.hypot(*x) / math.hypot(*y))

        handles.append(block.register_forward_hook(look))
    with torch.no_grad():
        for window in ids:
            model(input_ids=window[None].long(), use_cache=False)
    for handle in handles:
        handle.remove()
    return [1 - math.fsum(cosines) / len(cosines) for cosines in seen]


def remove(model: Any, family: str, removed: range) -> Any:
    """Delete blocks of a stock model, and their entries of the configuration."""
    blocks = blocks_of(model, family)
    kinds = getattr(model.config, "layer_types", None)
    for index in reversed(removed):
        del blocks[index]
        if kinds:
            del kinds[index]
    model.config.num_hidden_layers = len(blocks)
    return model


def literal_nats(model: Any, ids: Tensor) -> float:
    """Return the mean loss per predicted token in float64, window by window."""
    losses = []
    with torch.no_grad():
        for window in ids.long():
            logits = model(input_ids=window[None], use_cache=False).logits[0].double()
            losses += [
                float(logits[at].logsumexp(0) - logits[at, int(window[at + 1])]) for at in range(len(window) - 1)
            ]
    return math.fsum(losses) / len(losses)
