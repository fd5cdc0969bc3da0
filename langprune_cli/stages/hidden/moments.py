"""Sums of t tᵀ over tokens, where t is what norms read of the residual stream, or put out for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from langprune_cli.models.streamed import Block
from langprune_cli.numerics.gram import add_gram
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.tensor_file import TensorFile
from langprune_cli.streaming.walk import walk
from langprune_cli.units.coordinates import Stream

LAST = -1  # stands for a block's index: the norm before the head
_MOST_BYTES = 1 << 30  # of moments in memory; more are in a file


class Moments:
    """The sums of every norm of a model, by block and path; of linears that read the stream itself, by the linear's path."""

    def __init__(
        self,
        model: OpenedModel,
        stream: Stream,
        scale: Tensor,  # D, float64 [d]
        spill: Path,
    ) -> None:
        """Collect nothing yet. spill: a folder for what does not fit into memory."""
        self._model, self._stream = model, stream
        size = self._size = model.streamed.config.get_text_config().hidden_size
        self.scale = scale
        self.departure = 0.0  # the largest of a token's rms(D x) / rms(x) from their mean at a norm, as a logarithm
        count = len(model.streamed.blocks) * (len(stream.before) + len(stream.behind)) + 1
        self._kept: list[Tensor] | TensorFile = [] if 4 * count * size**2 <= _MOST_BYTES else TensorFile(spill)
        self.places: list[tuple[int, str]] = []  # block and path of each
        self.tokens = 0
        self._sums: dict[str, Tensor] = {}  # of the current block

    def collect(self, ids: Tensor, folder: Path, reporter: Reporter) -> None:
        """Run windows [n, t] through the dense model, with one block in memory."""
        blocks = len(self._model.streamed.blocks)
        reporter.begin(f"hidden states of {self._model.label}", blocks, ids.numel() * blocks)
        states = self._model.hidden_states(ids, folder, fast=True)
        for block in walk(states, observe=self._watch, tick=reporter.tick):
            for path, total in self._sums.items():
                self._keep(block.index, path, total)
        last = self._empty()
        for number in range(len(states.ids)):
            add_gram(last, self._normed(states.hidden[number]))
        self._keep(LAST, self._stream.last, last)
        self.tokens = ids.numel()
        reporter.end()

    def __iter__(self) -> Iterator[tuple[int, str, Tensor]]:
        """Yield block, path and sum [d, d] of each, in order."""
        for number, (index, path) in enumerate(self.places):
            yield index, path, self._kept[number]

    def _keep(self, index: int, path: str, total: Tensor) -> None:
        self.places.append((index, path))
        self._kept.append((total.triu() + total.triu(1).T).cpu())

    def _empty(self) -> Tensor:
        return torch.zeros(self._size, self._size, device=self._model.streamed.device)

    def _normed(self, x: Tensor) -> Tensor:  # float32 [tokens, d]
        x = x.flatten(0, -2).float()
        return x * x.square().mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()

    def _depart(self, normed: Tensor) -> None:
        """Note how far tokens depart whose D x is longer or shorter than that of others."""
        kept = (normed * self.scale.to(normed)).square().mean(-1).sqrt()
        self.departure = max(self.departure, float((kept / kept.mean()).log().abs().max()))

    @contextmanager
    def _watch(self, block: Block) -> Iterator[None]:
        self._sums = {}
        modules = dict(block.module.named_modules())
        of, stream = modules.keys(), self._stream
        handles = [
            *(modules[path].register_forward_pre_hook(partial(self._read, path)) for path in stream.before & of - {""}),
            *(modules[path].register_forward_hook(partial(self._written, path)) for path in stream.behind & of),
            *(modules[path].register_forward_pre_hook(partial(self._taken, path)) for path in stream.alone & of),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, path: str, t: Tensor) -> None:
        add_gram(self._sums.setdefault(path, self._empty()), t)

    def _read(self, path: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        normed = self._normed(args[0])
        self._depart(normed)
        self._add(path, normed)

    def _written(self, path: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        self._add(path, output.flatten(0, -2).float())

    def _taken(self, path: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._add(path, args[0].flatten(0, -2).float())
