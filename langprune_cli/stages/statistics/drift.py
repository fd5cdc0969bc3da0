"""Sums of how far a pruned model's residual stream is from the dense model's, beside what its linears read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from langprune_cli.machine.team import ALONE, Team
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.gram import add_cross
from langprune_cli.streaming.residual_stream import NO_STREAM, Stream, find_stream

Output = Tensor | tuple[Tensor, ...]


class DriftCollector:
    """Sums Σ (h' - h) xᵀ for each linear that writes to the residual stream, over two halves of the windows, block by block.

    h [o] is the stream of the pruned model before the linear's output is added, h' the dense model's, x [i] what the linear
    reads in the pruned model. Each micro-batch passes the block as the dense model's first (`dense`), then as the pruned one's.
    """

    def __init__(self, team: Team = ALONE) -> None:
        """Collect nothing yet. team: processes that each observe their own windows."""
        self._team = team
        self._stream: Stream | None = None  # of the block; None until its first dense micro-batch has passed
        self._terms: dict[nn.Module, float] = {}  # modules that write to it with their factors, in the order of calls
        self._drift: dict[nn.Module, Tensor] = {}  # float32 [2, o, i], of those that are linears outside of experts
        self._in_dense = False
        self._windows = 0  # of the pruned model that have passed the block, or are about to
        # Of the current pass:
        self._hidden = torch.empty(0)  # the block's input [b, t, h]
        self._outputs: dict[nn.Module, Tensor] = {}  # in the order of calls
        self._before: dict[nn.Module, Tensor] = {}  # by writer, the dense stream before it, float32 [b, t, h]

    @contextmanager
    def watch(self, block: Block) -> Iterator[None]:
        """Collect while the block's forward passes run inside this context."""
        self._stream, self._terms, self._drift, self._windows = None, {}, {}, 0
        inside = list(block.module.modules())[1:]
        handles = [
            block.module.register_forward_pre_hook(self._begin),
            block.module.register_forward_hook(self._finder(block)),
            *(module.register_forward_hook(self._keep) for module in inside),
            *(linear.module.register_forward_pre_hook(self._sum) for linear in block.linears if linear.expert is None),
        ]
        try:
            yield
        finally:
            self._hidden, self._outputs, self._before = torch.empty(0), {}, {}
            for handle in handles:
                handle.remove()

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Take what passes the block inside this context as a micro-batch of the dense model."""
        self._in_dense = True
        try:
            yield
        finally:
            self._in_dense = False

    def tensors(self, block: Block) -> dict[str, Tensor]:
        """Return the sums over the windows of all processes by "<linear>/drift", float32 [2, o, i], in units of its output."""
        found = {each.name: each.module for each in block.linears if each.module in self._drift}
        if self._team.size > 1:
            self._team.all_reduce([self._drift[module] for module in found.values()])
        return {f"{name}/drift": (self._drift[module] / self._terms[module]).cpu() for name, module in found.items()}

    def _begin(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._hidden, self._outputs = args[0], {}
        self._windows += 0 if self._in_dense else len(args[0])

    def _keep(self, module: nn.Module, _args: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and (self._stream is None or module in self._terms):
            self._outputs[module] = first

    def _finder(self, block: Block) -> Callable[[nn.Module, object, Output], None]:
        """Return a hook that finds the stream's composition once, and keeps the dense stream before each writer."""
        modules = dict(block.module.named_modules())
        linears = {linear.module for linear in block.linears if linear.expert is None}

        def find(_module: nn.Module, _args: object, output: Output) -> None:
            if not self._in_dense:
                return
            after = output[0] if isinstance(output, tuple) else output
            if self._stream is None:
                self._stream = self._team.first(lambda: find_stream(block, self._hidden, after, self._outputs))
                self._terms = {modules[path]: factor for path, factor in self._stream.factors.items()}
            self._before = {module: self._before_writing(module) for module in self._terms.keys() & linears}

        return find

    def _before_writing(self, writer: nn.Module) -> Tensor:  # float32 [b, t, h]
        """Return the stream of the current pass before a linear writes to it."""
        stream = self._hidden.float() * (self._stream or NO_STREAM).kept
        for module, factor in self._terms.items():
            if module is writer:
                break
            stream.add_(self._outputs[module].view_as(stream), alpha=factor)
        return stream

    def _sum(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self._in_dense or module not in self._before:
            return
        away = self._before[module] - self._before_writing(module)
        x = args[0].reshape(*away.shape[:2], -1)
        if module not in self._drift:
            self._drift[module] = torch.zeros(2, away.shape[-1], x.shape[-1], device=x.device)
        first = (self._windows - len(away)) % 2  # windows go to the halves in turn, whatever the size of micro-batches
        for half, drift in enumerate(self._drift[module]):
            turn = slice((half - first) % 2, None, 2)
            add_cross(drift, away[turn].flatten(0, 1), x[turn].flatten(0, 1))
