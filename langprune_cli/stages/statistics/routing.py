"""Observes where routers send tokens, and what the experts of a block add to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.routing import Routing
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, walk
from langprune_cli.units.experts import experts_in


@dataclass
class RoutingCollector:
    """Sums the routing of each block with experts."""

    sums: dict[int, Routing] = field(default_factory=dict)  # by block

    @contextmanager
    def watch(self, block: Block) -> Iterator[None]:
        """Collect while the block's forward passes run inside this context."""
        found = experts_in(block.module)
        if found is None:
            yield
            return
        experts = found[1]
        experts.watch = self.sums.setdefault(block.index, Routing.zeros(len(experts))).add
        try:
            yield
        finally:
            experts.watch = None

    def of(self, index: int) -> Routing | None:
        """Return the sums of a block, None without experts; raises LangpruneError if an expert's output was not finite."""
        found = self.sums.get(index)
        if found and not torch.isfinite(found.outputs).all():
            raise LangpruneError(
                f"block {index}: the outputs of its experts are not finite: compute in another dtype, such as --dtype "
                "float32, and check the checkpoint"
            )
        return found


def gathered_routing(
    model: OpenedModel,
    windows: Tensor,  # int [n, t]
    reporter: Reporter,
) -> dict[int, Routing]:
    """Return the routing of each block with experts; one pass, with one block and the hidden states in memory."""
    blocks, collector = len(model.streamed.blocks), RoutingCollector()
    reporter.begin(f"experts of {model.label}", blocks, windows.numel() * blocks)
    states = HiddenStates(model.streamed, windows, model.compute.batch_tokens)
    found = {}
    for block in walk(states, observe=collector.watch, tick=reporter.tick, last_output=False):
        routing = collector.of(block.index)
        if routing:
            found[block.index] = routing
    reporter.end()
    return found
