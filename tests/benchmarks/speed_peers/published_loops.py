"""Wanda and SparseGPT as their authors' code goes about them, step for step, on one model held in memory.

A literal account of the published procedure (github.com/locuslab/wanda, github.com/IST-DASLab/sparsegpt): windows go
through a block one by one, every linear gathers statistics of its own from a hook, even where it shares its input with
others; every linear is factored and swept by itself; then all windows go through the pruned block. Nothing is made
faster than there, and nothing slower: what differs is only what transformers' blocks want as arguments today.

    python published_loops.py MODEL WINDOWS wanda|sparsegpt OUT REPORT
"""

import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

SPARSITY, COLUMNS, DAMPING = 0.5, 128, 0.01


class Wanda:
    """Mean over the windows of the squared norm of each input column, and the pruning that it leads to."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        self.windows = 0
        self.mean_sq = torch.zeros(linear.in_features)

    def add(self, x: Tensor) -> None:  # [1, t, i]
        """Take in one window; the mean is a running one, over windows, not tokens."""
        columns = x.reshape(-1, x.shape[-1]).t()
        self.mean_sq *= self.windows / (self.windows + 1)
        self.windows += 1
        self.mean_sq += columns.float().norm(p=2, dim=1) ** 2 / self.windows

    def prune(self) -> None:
        """Remove the lowest scores of each output row (arXiv 2306.11695, algorithm 1)."""
        weight = self.linear.weight.data
        score = weight.abs() * self.mean_sq.reshape(1, -1).sqrt()
        order = score.sort(dim=-1, stable=True).indices
        lowest = order[:, : int(score.shape[1] * SPARSITY)]
        weight[torch.zeros_like(score, dtype=torch.bool).scatter_(1, lowest, value=True)] = 0


class SparseGPT:
    """Mean over the windows of 2 x xᵀ, and the sweep that it leads to."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        self.windows = 0
        self.hessian = torch.zeros(linear.in_features, linear.in_features)

    def add(self, x: Tensor) -> None:  # [1, t, i]
        """Take in one window, in float32; the mean is a running one, over windows."""
        columns = x.reshape(-1, x.shape[-1]).t()
        self.hessian *= self.windows / (self.windows + 1)
        self.windows += 1
        columns = math.sqrt(2 / self.windows) * columns.float()
        self.hessian += columns @ columns.t()

    def prune(self) -> None:
        """Sweep the columns from left to right (arXiv 2301.00774, algorithm 1)."""
        W = self.linear.weight.data.float()
        U = self._upper_factor(W)
        losses = torch.zeros(len(W))
        for first in range(0, W.shape[1], COLUMNS):
            last = min(first + COLUMNS, W.shape[1])
            here, errors, loss = self._sweep(W[:, first:last].clone(), U[first:last, first:last])
            W[:, first:last] = here
            losses += loss
            W[:, last:] -= errors @ U[first:last, last:]
        self.linear.weight.data = W.to(self.linear.weight.dtype)
        losses.sum().item()  # the published code prints it

    def _upper_factor(self, W: Tensor) -> Tensor:
        H = self.hessian
        dead = H.diagonal() == 0
        H[dead, dead] = 1
        W[:, dead] = 0
        H.diagonal().add_(DAMPING * H.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        U: Tensor = torch.linalg.cholesky(inverse, upper=True)
        return U

    def _sweep(self, W: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prune a group of columns; return them, the error that each owes to the columns after, and every row's loss."""
        score = W**2 / U.diagonal().reshape(1, -1) ** 2
        threshold = score.flatten().sort().values[int(score.numel() * SPARSITY)]
        gone = score <= threshold
        pruned, errors, loss = torch.zeros_like(W), torch.zeros_like(W), torch.zeros_like(W)
        for column in range(W.shape[1]):
            before, pivot = W[:, column], U[column, column]
            after = before.clone()
            after[gone[:, column]] = 0
            pruned[:, column] = after
            loss[:, column] = (before - after) ** 2 / pivot**2
            error = (before - after) / pivot
            W[:, column:] -= error.unsqueeze(1) @ U[column, column:].unsqueeze(0)
            errors[:, column] = error
        return pruned, errors, loss.sum(dim=1) / 2


class StopHereError(Exception):
    """The first block was reached: the rest of the forward pass is not wanted."""


class Catcher(nn.Module):
    """Stands in the first block's place, and keeps what that would have been called with."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs
        self.window = 0
        self.arguments: dict[str, Any] = {}

    def forward(self, hidden: Tensor, **arguments: Any) -> Tensor:
        self.inputs[self.window] = hidden[0]
        self.window += 1
        self.arguments = arguments
        raise StopHereError


def caught(model: LlamaForCausalLM, windows: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return the first block's input for every window [n, t, h], and its other arguments, alike for all."""
    blocks = model.model.layers
    inputs = torch.zeros(*windows.shape, model.config.hidden_size, dtype=model.dtype)
    first, blocks[0] = blocks[0], Catcher(inputs)
    for window in windows:
        try:
            model(window.unsqueeze(0))
        except StopHereError:
            continue
    arguments = blocks[0].arguments
    blocks[0] = first
    return inputs, arguments


def hook(watch: Wanda | SparseGPT, _module: nn.Module, arguments: tuple[Tensor, ...], _output: Tensor) -> None:
    watch.add(arguments[0].data)


@torch.no_grad()
def prune(model: LlamaForCausalLM, windows: Tensor, method: type[Wanda] | type[SparseGPT]) -> None:
    """Prune every block in turn, each calibrated on what the pruned blocks before it put out."""
    model.config.use_cache = False
    inputs, arguments = caught(model, windows)
    outputs = torch.zeros_like(inputs)
    for block in model.model.layers:
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
        watched = [method(linear) for linear in linears]
        handles = [each.linear.register_forward_hook(partial(hook, each)) for each in watched]
        for i in range(len(inputs)):
            outputs[i] = block(inputs[i].unsqueeze(0), **arguments)[0]
        for handle in handles:
            handle.remove()
        for each in watched:
            each.prune()
        for i in range(len(inputs)):
            outputs[i] = block(inputs[i].unsqueeze(0), **arguments)[0]
        inputs, outputs = outputs, inputs


def main() -> None:
    """Prune one model, and write to REPORT how long it took from reading to having written it."""
    source, windows, method, out, report = sys.argv[1:]
    begun = time.perf_counter()
    model = LlamaForCausalLM.from_pretrained(source, dtype="auto").eval()
    ids = load_file(windows)["windows"].long()
    prune(model, ids, Wanda if method == "wanda" else SparseGPT)
    model.save_pretrained(out)
    seconds = time.perf_counter() - begun
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    Path(report).write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
