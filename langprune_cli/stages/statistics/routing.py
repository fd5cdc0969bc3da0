"""Observes where routers send tokens, and what the experts of a block add to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.machine.team import ALONE, Team
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.routing import Routing
from langprune_cli.stages.statistics.parts import block_part, fitting, single_tensors
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, walk
from langprune_cli.units.experts import experts_in

# Tensors of a block's part of statistics.
_ROUTED, _OUTPUTS = "experts/routed", "experts/outputs"
ROUTING = frozenset({_ROUTED, _OUTPUTS})


@dataclass
class RoutingCollector:
    """Sums the routing of each block with experts."""

    team: Team = ALONE  # processes that each observe their own windows
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
        """Return the sums of a block over the windows of all processes, None without experts.

        Raises LangpruneError if an expert's output was not finite.
        """
        found = self.sums.pop(index, None)
        if found and self.team.size > 1:
            self.team.all_reduce([found.tokens, found.outputs])
        if found and not torch.isfinite(found.outputs).all():
            raise LangpruneError(
                f"block {index}: the outputs of its experts are not finite: compute in another dtype, such as --dtype "
                "float32, and check the checkpoint"
            )
        return found


def routing_tensors(routing: Routing | None) -> dict[str, Tensor]:
    """Return the tensors of a block's part of statistics; none without experts."""
    return {} if routing is None else {_ROUTED: routing.tokens, _OUTPUTS: routing.outputs}


def routing_in(stats: Artifact, experts: int | None = None) -> dict[int, Routing]:
    """Return the routing by block that statistics hold; none if an earlier version made them, or without experts.

    experts: how many each block has, if known. Raises LangpruneError as `fitting` does.
    """
    found = {}
    for index in map(int, stats.manifest.about.get("expert_tokens", {})):
        tensors = single_tensors(stats, part := block_part(index), ROUTING)
        if _ROUTED not in tensors:
            return {}
        count = tensors[_ROUTED].numel() if experts is None else experts
        routed = fitting(stats, part, tensors, _ROUTED, torch.int64, (count,))
        found[index] = Routing(routed, fitting(stats, part, tensors, _OUTPUTS, torch.float64, (count,)))
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
