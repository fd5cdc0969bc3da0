"""Windows shared by several processes: each runs its share through every block, and the leader gets the sums.

The leader runs a stage as a single process would. Its `SharedStates` tell the others of every block that it runs, and they run
their windows through it too (`serve`); when it asks its collector for a block's sums, theirs are added (`add_sums`).
"""

from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.machine.team import Team
from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.stages.solving.site_solving import Solver
from langprune_cli.stages.statistics.collecting import BlockStats, StatsCollector
from langprune_cli.streaming.opened import Compute, OpenedModel
from langprune_cli.streaming.walk import HiddenStates, Tick


class SharedStates(HiddenStates):
    """The leader's share of the hidden states; what it does with them the others do with theirs."""

    def __init__(self, model: OpenedModel, ids: Tensor, folder: Path, team: Team) -> None:
        """Embed this process's share of `ids` [n, t], and have the others embed theirs."""
        if len(ids) < team.size:
            raise LangpruneError(f"{len(ids)} windows cannot be shared by {team.size} processes: start fewer of them")
        team.tell("embed", model.location, model.compute, ids, folder.absolute())
        self._team = team
        super().__init__(*_share(model, ids, folder, team), fast=True)

    def forward(self, block: Block, *, keep: bool = True, tick: Tick | None = None) -> None:
        """Run every micro-batch of every process through a loaded block; see `HiddenStates.forward`."""
        self._team.tell("forward", block.index, keep)
        size = self._team.size
        super().forward(block, keep=keep, tick=(lambda index, tokens: tick(index, tokens * size)) if tick else None)


def _share(model: OpenedModel, ids: Tensor, folder: Path, team: Team) -> tuple[StreamedModel, Tensor, int, Path | None]:
    """Return what the hidden states of this process's share of `ids` [n, t] are made of: --max-memory is each process's own."""
    share = team.share(ids)
    return model.streamed, share, model.compute.batch_tokens, model.spill(share, folder)


def spread_weights(team: Team, index: int, weights: dict[str, Tensor]) -> None:
    """Give the others the new weights of the block that is loaded, by checkpoint name."""
    team.tell("weights", index, {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()})
    team.spread([tensor.contiguous() for tensor in weights.values()])


def serve(team: Team) -> None:
    """Do what the leader tells until it says that all is done."""
    worker = _Worker(team)
    while True:
        order, *rest = team.hear()
        if order == "done":
            return
        getattr(worker, order)(*rest)


class _Worker:
    """What a process that does not lead holds: a model, its share of the windows, the block that it is at."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._model: OpenedModel | None = None
        self._states: HiddenStates | None = None
        self._collector: StatsCollector | None = None
        self._loaded = ExitStack()
        self._block: Block | None = None
        self._watching: AbstractContextManager[None] | None = None

    def open(self, location: Any, compute: Compute) -> None:  # noqa: ANN401 - a ModelLocation
        """Open a model while the leader does; what is wrong with it, the leader says."""
        with suppress(LangpruneError):
            self._opened(location, compute)

    def embed(self, location: Any, compute: Compute, ids: Tensor, folder: Path) -> None:  # noqa: ANN401 - as above
        """Embed this process's windows."""
        self._states = HiddenStates(*_share(self._opened(location, compute), ids, folder, self._team), fast=True)

    def watch(self, index: int, hessian: bool, inputs_only: bool) -> None:  # noqa: FBT001 - as it was told
        """Collect sums of a block's inputs from now on."""
        self._collector = StatsCollector(hessian=hessian)
        self._watching = self._collector.watch(self._at(index), inputs_only=inputs_only)
        self._watching.__enter__()

    def forward(self, index: int, keep: bool) -> None:  # noqa: FBT001 - as it was told
        """Run this process's windows through a block."""
        assert self._states is not None  # noqa: S101 - "embed" came first
        self._states.forward(self._at(index), keep=keep)

    def sums(self) -> None:
        """Add what was collected to the leader's."""
        assert self._collector is not None  # noqa: S101 - "watch" came first
        assert self._watching is not None  # noqa: S101 - as above
        self._watching.__exit__(None, None, None)
        self._collector.add_to(self._team)
        self._watching = None

    def solve(self, index: int, solver: Solver, windows: int) -> None:
        """Solve this process's sites of a block whose sums have been added up, and take the new weights of all."""
        assert self._model is not None  # noqa: S101 - "embed" came first
        assert self._collector is not None  # noqa: S101 - "sums" came first
        block = self._at(index)
        known = BlockStats(*self._collector.finished(block), windows)
        solved = solver.shared(self._team, self._model, index, known)
        block.take({name: each.tensor for every in solved for name, each in every.updated.items()})

    def weights(self, index: int, shapes: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
        """Take new weights of a block, for the forward that follows."""
        block = self._at(index)
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        self._team.spread(list(tensors.values()))
        block.take(tensors)

    def _opened(self, location: Any, compute: Compute) -> OpenedModel:  # noqa: ANN401 - as above
        """Return a model, opened unless it is already."""
        self._leave_block()
        if self._model is None or self._model.location != location:
            self._model = OpenedModel(location, compute)
        return self._model

    def _at(self, index: int) -> Block:
        """Return a block, loaded until another one is asked for."""
        assert self._model is not None  # noqa: S101 - "embed" came first
        if self._block is None or self._block.index != index:
            self._leave_block()
            self._block = self._loaded.enter_context(self._model.streamed.block(index))
        return self._block

    def _leave_block(self) -> None:
        self._loaded.close()
        self._loaded, self._block = ExitStack(), None
