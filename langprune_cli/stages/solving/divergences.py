"""How far the next-token distribution goes from the dense model's when a linear is pruned, by second derivatives."""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from langprune_cli.allocations.allocation import Trials
from langprune_cli.models.streamed import Block, Linear
from langprune_cli.stages.statistics.collecting import BlockStats
from langprune_cli.stages.statistics.sites import BlockSite, Solving, block_sites, named
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.backward import TracedStates, traced
from langprune_cli.streaming.opened import OpenedModel

# With n windows, a divergence is known to about the root of 2 / n of it, however long they are: so they are short, and many.
_PIECES, _TOKENS = 256, 128
_BATCH_TOKENS = 1024  # that go back together
PRODUCT_BYTES = 64 << 20  # of gradients of windows by one weight
MOST_BYTES = 1 << 30  # of hidden states before all blocks; more are in a file
_SEED = 0  # of the tokens that are drawn


@dataclass(frozen=True)
class Divergence:
    """What it costs to prune a linear, or the same linears of all experts of a block, which share a sparsity."""

    linears: tuple[str, ...]  # checkpoint names
    nats: tuple[float, ...]  # per token, at each sparsity that was tried


@dataclass(frozen=True)
class Measuring:
    """What divergences are measured with."""

    model: OpenedModel
    linears: Callable[[int], Sequence[Linear]]  # those of a block to prune
    stats: Callable[[int], BlockStats | None]  # of the dense model, by block
    solving: Solving
    trials: Trials
    reporter: Reporter

    def run(
        self,
        windows: Tensor,  # int [n, t]
        folder: Path,  # for hidden states that do not stay in memory
    ) -> list[list[Divergence]]:  # by block
        """Return the Kullback-Leibler divergence from the dense model if one linear is pruned, to second order.

        A change D of weights moves a window's distribution by half of the mean of <D, G>², where G is the gradient of the
        log-likelihood of next tokens that the model draws itself: <D, G>² is the change's Fisher information (Martens, arXiv
        1412.1193, section 5). One pass forward and one back tell it for all linears and sparsities, with one block in memory.
        The same linears of all experts of a block are taken together, since few tokens reach each.
        """
        ids, model = _short(windows), self.model.streamed
        blocks = len(model.blocks)
        spill = self.model.spill(ids, folder, ways=blocks + 2, most=MOST_BYTES)
        # Which tokens of a micro-batch reach an expert is not known to its linears.
        tokens = ids.shape[1] if model.has_experts else max(ids.shape[1], _BATCH_TOKENS)
        states = traced(TracedStates(model, ids, tokens, spill), spill)
        gradients = states.pop().sampled_gradients(_SEED)
        found: list[list[Divergence]] = []
        for index in reversed(range(blocks)):
            changes = dict[str, Tensor]()
            for site in self._sites(index):
                with named(site.name):
                    changes |= self._changes(site)
            together = _together(self.linears(index), changes)
            products = _Products(changes, together, len(self.trials.sparsities), model.device)
            before = states.pop()
            with model.block(index) as block, products.watch(block):
                for number, part in enumerate(before.ids):
                    with products.of_windows(len(part)):
                        gradients[number] = before.back(block, number, gradients[number])
            found.append(products.divergences(ids.numel()))
            self.reporter.tick(blocks - 1 - index, 0)
        return found[::-1]

    def _sites(self, index: int) -> Iterator[BlockSite]:
        sites = block_sites(self.model, self.linears(index), self.stats(index), self.solving)
        return (each for each in sites if each.site.stats is not None)

    def _changes(self, site: BlockSite) -> dict[str, Tensor]:
        """Return what each sparsity changes in a site's linears, by name, float32 [s, o i]."""
        dense = site.site.weight
        tried = [site.site.split(self.trials.prune(site.site, sparsity) - dense) for sparsity in self.trials.sparsities]
        return {
            linear.name: torch.stack([parts[place].flatten() for parts in tried])
            for place, linear in enumerate(site.linears)
        }


def pieces_of(windows: int, seqlen: int) -> tuple[int, int]:
    """Return how many pieces of windows divergences are measured on, and their tokens."""
    length = min(_TOKENS, seqlen)
    return min(_PIECES, windows * (seqlen // length)), length


def _short(windows: Tensor) -> Tensor:  # [n, t] -> [m, u]
    """Return pieces of windows: the first of each, then the second of each, until there are enough."""
    number, length = pieces_of(*windows.shape)
    pieces = windows[:, : windows.shape[1] // length * length].reshape(len(windows), -1, length)
    return pieces.transpose(0, 1).reshape(-1, length)[:number]


def _together(linears: Sequence[Linear], changed: Container[str]) -> list[tuple[str, ...]]:
    """Return each linear that changes alone, and the same linears of all experts together, also of those that do not."""
    count = Counter[int]()
    groups = dict[str | int, list[str]]()
    for linear in linears:
        key: str | int = linear.name
        if linear.expert is not None:
            key = count[linear.expert]
            count[linear.expert] += 1
        groups.setdefault(key, []).append(linear.name)
    return [tuple(names) for names in groups.values() if any(name in changed for name in names)]


class _Products:
    """Inner products of changes of a block's linears with the gradients of windows that go back through it."""

    def __init__(
        self,
        changes: Mapping[str, Tensor],  # by linear [s, o i]
        together: Sequence[tuple[str, ...]],
        sparsities: int,
        device: torch.device,
    ) -> None:
        self._changes, self._together = changes, together
        self._squares = torch.zeros(len(together), sparsities, dtype=torch.float64, device=device)
        self._products = torch.empty(0)  # of the windows on their way [b, places, s]
        self._seen = [False] * len(together)

    @contextmanager
    def watch(self, block: Block) -> Iterator[None]:
        """Take the products while windows go back through the block inside this context."""
        place = {name: number for number, names in enumerate(self._together) for name in names}
        handles = [
            each.module.register_forward_hook(partial(self._see, each.name, place[each.name]))
            for each in block.linears
            if each.name in self._changes
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, name: str, place: int, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            x = args[0].detach()
            output.register_hook(lambda gradient: self._add(name, place, x, gradient))  # type: ignore[no-untyped-call]

    def _add(self, name: str, place: int, x: Tensor, gradient: Tensor) -> None:
        windows, change = len(self._products), self._changes[name]
        x, gradient = (each.float().reshape(windows, -1, each.shape[-1]) for each in (x, gradient))
        step = max(1, PRODUCT_BYTES // (4 * change.shape[1]))
        for start in range(0, windows, step):
            part = slice(start, start + step)
            by_weight = torch.bmm(gradient[part].mT, x[part])  # [b, o, i]
            self._products[part, place] += by_weight.flatten(1) @ change.t()
        self._seen[place] = True

    @contextmanager
    def of_windows(self, windows: int) -> Iterator[None]:
        """Take what goes back through the block inside this context as so many whole windows."""
        self._products = torch.zeros(windows, *self._squares.shape, device=self._squares.device)
        yield
        self._squares += self._products.double().square().sum(0)

    def divergences(self, tokens: int) -> list[Divergence]:
        """Return what the linears of each place cost, over so many tokens; nothing of those that no gradient reached."""
        nats = (self._squares / (2 * tokens)).tolist()
        known = zip(self._together, nats, self._seen, strict=True)
        return [Divergence(names, tuple(each)) for names, each, seen in known if seen]
