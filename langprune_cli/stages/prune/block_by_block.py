"""The grid walked block by block: statistics, masks and new weights of a block, then the next."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from langprune_cli.machine.memory import give_back_freed
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.stages.apply.model_writing import ModelWriter
from langprune_cli.stages.solving.site_solving import SolvedSite, Solver
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.solving.updating import UpdatedLinear, updated_block
from langprune_cli.stages.statistics.collecting import BlockStats, StatsCollector
from langprune_cli.stages.statistics.parts import WINDOWS_PART, block_part
from langprune_cli.stages.statistics.sites import block_stats
from langprune_cli.stages.structured.keep_masks import BlockMasks, MaskReader
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.resuming import SavedStates
from langprune_cli.streaming.walk import tick_of_all, walk
from langprune_cli.types import Windows
from langprune_cli.updates.update import Update


@dataclass(kw_only=True)
class BlockByBlock:
    """One pruning run: it writes masks and the model block by block, and goes on from the parts that are there already.

    Here statistics are read from an artifact; `Propagated` gathers them on the way.
    """

    model: OpenedModel
    chooser: AnyChooser
    update: Update
    patterns: Sequence[Pattern]
    masks: ArtifactWriter | Artifact  # an artifact where they are complete: then only the model is made
    target: ModelWriter
    reporter: Reporter
    statistics: Artifact | None = None
    seconds: dict[int, float] = field(default_factory=dict)  # per block, of choosing and updating in this run

    def run(self) -> None:
        """Prune all blocks, and write the shards of the model as their blocks are done."""
        blocks = range(len(self.patterns))
        self._done = next((index for index in blocks if not self._has(index)), len(blocks))
        if self._done:
            self.reporter.note(
                f"Going on with {self.target.writer.folder.name}: {self._done} of {len(blocks)} blocks are done."
            )
        self._walk = self._walked()
        if self.model.compute.team.leads:
            self.target.write(self._new_weights, lambda _: None)
        for _ in self._walk:  # what the shards on disk did not ask for; of a process that writes none, all blocks
            pass
        self.reporter.end()

    @property
    def _what(self) -> str:
        return f"prune {self.target.writer.folder.name}"

    def _has(self, index: int) -> bool:
        """Return whether all parts of a block are on disk from which its new weights follow."""
        return isinstance(self.masks, Artifact) or self.masks.has(block_part(index))

    def _stats(self, index: int) -> BlockStats | None:
        return block_stats(self.statistics, self.model, index)

    def _walked(self) -> Iterator[tuple[int, dict[str, UpdatedLinear]]]:
        """Prune the blocks from the first that lacks a part, and yield (index, new weights) of each."""
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
        """Return a line on one block: the relative error of each linear."""
        errors = ", ".join(
            f"{name.split('.')[-2]} {each.pruned.error:.2%}"
            for name, each in updated.items()
            if each.pruned.error is not None
        )
        return f"Block {index + 1} of {len(self.patterns)}: " + (f"error {errors}" if errors else "done")


@dataclass(kw_only=True)
class Propagated(BlockByBlock):
    """A run in which each block is calibrated on what the pruned blocks before it put out (propagation `pruned`).

    Blocks whose statistics and masks are on disk are not calibrated again: their new weights follow from both.
    """

    windows: Windows
    stats: ArtifactWriter
    hessian: bool  # whether Hessians are collected

    def run(self) -> None:
        """Prune all blocks, the windows being written first."""
        if not self.stats.has(WINDOWS_PART):
            self.stats.write_tensors(WINDOWS_PART, {"windows": self.windows.ids})
        self._saved = SavedStates(self.stats, self.model, self.windows)
        self._collector = StatsCollector(hessian=self.hessian, team=self.model.compute.team)
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
        self.reporter.begin(self._what, blocks, self.windows.ids.numel() * (2 * blocks - self._done - first - 1))
        tick = tick_of_all(self.model.compute.team, self.reporter.tick)
        steps = walk(states, first=first, observe=self._observe, edit=self._edit, tick=tick, last_output=False)
        for block in steps:
            self._saved.keep(states, block.index)
            yield block.index, self._updated

    def _observe(self, block: Block) -> AbstractContextManager[object] | None:
        return self._collector.watch(block, inputs_only=True) if block.index >= self._done else None

    def _edit(self, block: Block) -> None:
        team = self.model.compute.team
        if block.index < self._done:  # the parts are on the disk of the first process
            self._updated = self._from_parts(block.index) if team.leads else {}
            block.take(team.broadcast_tensors({name: each.tensor for name, each in self._updated.items()}))
        else:
            tensors, sites = self._collector.tensors(block)
            with ThreadPoolExecutor(1, "statistics") as writer:  # a tenth of the time of solving, and mostly the disk's
                part = block_part(block.index)
                writing = None
                if not self.stats.has(part):
                    writing = writer.submit(self.stats.write_tensors, part, tensors, {"sites": sites})
                self._updated = self._prune(block.index, BlockStats(tensors, sites, self.windows.count))
                if writing:
                    writing.result()
            block.take({name: each.tensor for name, each in self._updated.items()})
        if self.hessian:
            give_back_freed()  # of statistics and solvers, before the block's windows take their place
