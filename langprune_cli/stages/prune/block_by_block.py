"""Prunes block by block: statistics, masks and new weights of one block, then the next."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

from langprune_cli.machine.memory import give_back_freed
from langprune_cli.models.streamed import Block
from langprune_cli.stages.apply.model_writing import ModelWriter
from langprune_cli.stages.solving.allocating import BlockPattern
from langprune_cli.stages.solving.site_solving import SolvedSite, Solver
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.solving.updating import UpdatedLinear, updated_block
from langprune_cli.stages.statistics.collecting import BlockStats, StatsCollector
from langprune_cli.stages.statistics.drift import DriftCollector
from langprune_cli.stages.statistics.parts import WINDOWS_PART, block_part
from langprune_cli.stages.statistics.sites import block_stats
from langprune_cli.stages.structured.keep_masks import BlockMasks, MaskReader
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.resuming import SavedStates
from langprune_cli.streaming.walk import Beside, tick_of_all, walk
from langprune_cli.types import Windows
from langprune_cli.updates.update import Update


@dataclass(kw_only=True)
class BlockByBlock:
    """One pruning run: writes masks and the model block by block, and resumes from the parts on disk.

    Reads statistics from an artifact; `Propagated` collects them during the run.
    """

    model: OpenedModel
    chooser: AnyChooser
    update: Update
    patterns: Sequence[BlockPattern]
    masks: ArtifactWriter | Artifact  # a complete artifact if only the model is missing
    target: ModelWriter
    reporter: Reporter
    statistics: Artifact | None = None
    seconds: dict[int, float] = field(default_factory=dict)  # by block, of choosing and updating in this run

    def run(self) -> None:
        """Prune all blocks, and write each shard of the model once its blocks are done."""
        blocks = range(len(self.patterns))
        self._done = next((index for index in blocks if not self._has(index)), len(blocks))
        if self._done:
            self.reporter.note(
                f"Resuming {self.target.writer.folder.name}: {self._done} of {len(blocks)} blocks are done."
            )
        self._walk = self._walked()
        if self.model.compute.team.leads:
            self.target.write(self._new_weights, lambda _: None)
        for _ in self._walk:  # the blocks that no missing shard needs; all blocks in processes that write no shards
            pass
        self.reporter.end()

    @property
    def _what(self) -> str:
        return f"prune {self.target.writer.folder.name}"

    def _has(self, index: int) -> bool:
        """Return whether the disk has all parts that determine a block's new weights."""
        return isinstance(self.masks, Artifact) or self.masks.has(block_part(index))

    def _stats(self, index: int) -> BlockStats | None:
        return block_stats(self.statistics, self.model, index)

    def _walked(self) -> Iterator[tuple[int, dict[str, UpdatedLinear]]]:
        """Prune from the first block without its parts, and yield (index, new weights) of each block."""
        self.reporter.begin(self._what, len(self.patterns), 0)
        for index in range(self._done, len(self.patterns)):
            yield index, self._prune(index, self._stats(index))
            self.reporter.tick(index, 0)

    def _new_weights(self, index: int) -> dict[str, UpdatedLinear]:
        if index < self._done:
            return self._from_parts(index)
        return next(updated for reached, updated in self._walk if reached == index)

    def _from_parts(self, index: int) -> dict[str, UpdatedLinear]:
        masks = MaskReader(Artifact(self.masks.folder, self.masks.manifest), self.model).block(index)
        return updated_block(self.model, index, masks, self.update, self._stats(index), self.chooser.settings.solving)

    def _prune(self, index: int, known: BlockStats | None) -> dict[str, UpdatedLinear]:
        """Choose and update the weights of one block, and write its masks."""
        begun = time.monotonic()
        masks = BlockMasks(index)
        updated: dict[str, UpdatedLinear] = {}
        for solved in self._solved(index, known):
            masks.add(solved.name, solved.masks, solved.damping)
            updated |= solved.updated
        if isinstance(self.masks, ArtifactWriter) and not self.masks.has(block_part(index)):
            masks.write(self.masks)
        self.seconds[index] = time.monotonic() - begun
        self.reporter.note(self._said(index, updated))
        return updated

    def _solved(self, index: int, known: BlockStats | None) -> list[SolvedSite]:
        return Solver(self.chooser, self.update, self.patterns[index]).sites(self.model, index, known)

    def _said(self, index: int, updated: dict[str, UpdatedLinear]) -> str:
        """Return a note on one block: the relative error of each linear."""
        errors = ", ".join(
            f"{name.split('.')[-2]} {each.pruned.error:.2%}"
            for name, each in updated.items()
            if each.pruned.error is not None
        )
        return f"Block {index + 1} of {len(self.patterns)}: " + (f"error {errors}" if errors else "done")


@dataclass(kw_only=True)
class Propagated(BlockByBlock):
    """A run that calibrates each block on the outputs of the pruned blocks before it (propagation `pruned` and `corrected`).

    With `corrected` the dense model's hidden states go through each block too, and linears that write to the residual stream
    make up for what it has lost so far. The run does not calibrate blocks with statistics and masks on disk again, since these
    determine their new weights.
    """

    windows: Windows
    stats: ArtifactWriter
    hessian: bool  # whether Hessians are collected
    corrected: bool = False

    def run(self) -> None:
        """Write the windows, then prune all blocks."""
        if not self.stats.has(WINDOWS_PART):
            self.stats.write_tensors(WINDOWS_PART, {"windows": self.windows.ids})
        team = self.model.compute.team
        self._saved = SavedStates(self.stats, self.model, self.windows, ways=2 if self.corrected else 1)
        self._collector = StatsCollector(hessian=self.hessian, team=team)
        self._drift = DriftCollector(team)
        super().run()

    def _has(self, index: int) -> bool:
        return self.stats.has(block_part(index)) and super()._has(index)

    def _stats(self, index: int) -> BlockStats | None:
        return block_stats(Artifact(self.stats.folder, self.stats.manifest), self.model, index)

    def _walked(self) -> Iterator[tuple[int, dict[str, UpdatedLinear]]]:
        blocks = len(self.patterns)
        if self._done == blocks:
            return
        states, first = self._saved.start(self._done)
        beside = Beside(states[1], self._dense) if self.corrected else None
        self.reporter.begin(self._what, blocks, self.windows.ids.numel() * (2 * blocks - self._done - first - 1))
        tick = tick_of_all(self.model.compute.team, self.reporter.tick)
        for block in walk(
            states[0],
            first=first,
            observe=self._observe,
            edit=self._edit,
            tick=tick,
            last_output=False,
            beside=beside,
        ):
            self._saved.keep(states, block.index)
            yield block.index, self._updated

    def _observe(self, block: Block) -> AbstractContextManager[object] | None:
        if block.index < self._done:
            return None
        stack = ExitStack()
        if self.corrected:  # its hooks run first: those of the other may end a forward pass
            stack.enter_context(self._drift.watch(block))
        stack.enter_context(self._collector.watch(block, inputs_only=True))
        return stack

    @contextmanager
    def _dense(self) -> Iterator[None]:
        """Keep a micro-batch of the dense model out of the statistics."""
        with self._drift.dense(), self._collector.paused():
            yield

    def _edit(self, block: Block) -> None:
        team = self.model.compute.team
        if block.index < self._done:  # only the first process has the parts on disk
            self._updated = self._from_parts(block.index) if team.leads else {}
            block.take(team.broadcast_tensors({name: each.tensor for name, each in self._updated.items()}))
        else:
            tensors, sites = self._collector.tensors(block)
            if self.corrected:
                tensors |= self._drift.tensors(block)
            with ThreadPoolExecutor(
                1, "statistics"
            ) as writer:  # takes a tenth of the time of solving, mostly for the disk
                part = block_part(block.index)
                writing = None
                if not self.stats.has(part):
                    writing = writer.submit(self.stats.write_tensors, part, tensors, {"sites": sites})
                self._updated = self._prune(block.index, BlockStats(tensors, sites, self.windows.count))
                if writing:
                    writing.result()
            block.take({name: each.tensor for name, each in self._updated.items()})
        if self.hessian:
            give_back_freed()  # frees statistics and solvers before the block's windows need the memory
