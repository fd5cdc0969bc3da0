"""What a whole transformers model does, window by window: sums of its linears' inputs, and its perplexity."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass
class Sums:
    """Sums over all tokens that one linear was given."""

    sum_sq: NDArray[np.float64]
    sum_x: NDArray[np.float64]
    tokens: int = 0


def input_sums(model: Any, windows: Tensor) -> dict[str, Sums]:
    """Run the windows one by one, and return the sums of every linear's inputs by "<module>.weight"."""
    sums: dict[str, Sums] = {}

    def see(name: str, rows: NDArray[np.float64]) -> None:
        found = sums.setdefault(name, Sums(np.zeros(rows.shape[1]), np.zeros(rows.shape[1])))
        for row in rows:
            found.sum_sq += row**2
            found.sum_x += row
            found.tokens += 1

    each_input(model, windows, see)
    return sums


def each_input(model: Any, windows: Tensor, see: Callable[[str, NDArray[np.float64]], None]) -> None:
    """Run the windows one by one, and show `see` what every linear is given: "<module>.weight", float64 [tokens, in]."""
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):

            def hook(_module: nn.Module, args: tuple[Tensor, ...], name: str = f"{path}.weight") -> None:
                see(name, args[0].detach().double().numpy().reshape(-1, args[0].shape[-1]))

            handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None].long())
    for handle in handles:
        handle.remove()


def perplexity(model: Any, windows: Tensor) -> float:
    """Return the exponential of the mean over windows of the mean loss over a window's predicted tokens."""
    means = []
    with torch.no_grad():
        for window in windows:
            logits = model(input_ids=window[None].long()).logits[0].double()
            losses = [
                float(logits[place].logsumexp(0) - logits[place, int(window[place + 1])])
                for place in range(len(window) - 1)
            ]
            means.append(sum(losses) / len(losses))
    return math.exp(sum(means) / len(means))
