"""Walks through both models for blockwise tuning, and writes the shards on the way."""

import json
from collections.abc import Iterator, Sequence
from typing import TypedDict

from torch import Tensor

from langprune_cli.models.checkpoint import read_entry
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.values import same_bits
from langprune_cli.records import CheckedRecord
from langprune_cli.stages.apply.model_writing import ModelWriter, damaged
from langprune_cli.stages.recover.block_tuning import (
    Lesson,
    TunableStates,
    TunedBlock,
    TuneSettings,
    held_out,
    tune_block,
)
from langprune_cli.stages.recover.checking import as_updated, check_trained
from langprune_cli.stages.solving.updating import UpdatedLinear
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import disk_errors, need_space, readable_json
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import Windows

TUNING_PART = "tuning.json"  # the result of tuning each block


class Tuning:
    """One run; resumes from the blocks on disk, each in its own part until its shard is written."""

    def __init__(
        self,
        writer: ArtifactWriter,
        dense: OpenedModel,
        pruned: OpenedModel,
        windows: Windows,
        settings: TuneSettings,
        stayed: Sequence[int],
        reporter: Reporter,
    ) -> None:
        self._writer = writer
        self._dense = dense.streamed
        self._pruned = pruned.streamed
        self._windows = windows
        self._settings = settings
        # The last dense block before the next kept one.
        self._imitated = [*(index - 1 for index in stayed[1:]), len(dense.streamed.blocks) - 1]
        self._reporter = reporter
        self._target = ModelWriter(writer, pruned, settings.max_shard_bytes)
        self._places = self._target.places
        self._known: dict[int, BlockTuning] = {}  # the result of tuning, by block
        if writer.has(TUNING_PART):
            self._known = {each["block"]: each for each in read_tuned(Artifact(writer.folder, writer.manifest))}

    def run(self) -> Artifact:
        """Tune the remaining blocks, and write each shard when its blocks are done."""
        largest = max(shard.size for shard in self._target.shards)
        need_space(self._writer.folder, sum(shard.size for shard in self._target.todo()) + largest)
        what, blocks = self._writer.folder.name, range(self._target.blocks)
        if done := sum(map(self._is_done, blocks)):
            self._reporter.note(f"Resuming {what}: {done} of {len(blocks)} blocks are done.")
        self._reporter.begin(f"tune {what}", len(blocks), 0)
        self._walk = self._walked()
        self._target.write(self._new_weights, lambda _: None)
        while not all(map(self._is_done, blocks)):  # blocks whose shards were on disk already
            next(self._walk)
        self._reporter.end()
        self._drop_parts()
        return self._writer.finish(checked=self._check())

    def _is_done(self, index: int) -> bool:
        """Return whether a block's tuned weights are on disk."""
        whole = self._writer.has(_tuned_part(index)) or self._writer.has(self._shard(index))
        return index in self._known and whole

    def _shard(self, index: int) -> str:
        """Return the shard of a block."""
        return self._places[self._pruned.tensor_names(index)[0]].file

    def _tensors(self, index: int) -> dict[str, Tensor]:
        """Return the tuned parameters of a finished block, by checkpoint name."""
        if not self._writer.has(_tuned_part(index)):
            return self._written(index)
        found = Artifact(self._writer.folder, self._writer.manifest).tensors(_tuned_part(index))
        return {name: found[name] for name in self._pruned.tensor_names(index)}

    def _written(self, index: int) -> dict[str, Tensor]:
        names = self._pruned.tensor_names(index)
        return {name: read_entry(self._writer.folder, self._places[name]) for name in names}

    def _new_weights(self, index: int) -> dict[str, UpdatedLinear]:
        self._drop_parts()
        while not self._is_done(index):
            next(self._walk)
        return as_updated(index, self._tensors(index))

    def _drop_parts(self) -> None:
        """Remove the parts of blocks whose shard is written and reads back; raises LangpruneError if the shard differs."""
        for index in range(self._target.blocks):
            part = _tuned_part(index)
            if self._writer.has(part) and self._writer.has(self._shard(index)):
                written = self._written(index)
                for name, tensor in self._tensors(index).items():
                    if not same_bits(tensor, written[name]):
                        raise damaged(self._writer.folder, name)
                with disk_errors(self._writer.folder / part):
                    (self._writer.folder / part).unlink()
                del self._writer.manifest.parts[part]

    def _walked(self) -> Iterator[None]:
        """Run windows through both models, and tune the remaining blocks on the way; yield after each."""
        held = held_out(self._windows.count)
        texts = self._windows.ids[~held], self._windows.ids[held]
        size = self._settings.step_windows * self._windows.seqlen
        dense, pruned = ([TunableStates(model, ids, size) for ids in texts] for model in (self._dense, self._pruned))
        passed = 0
        for index, last in enumerate(self._imitated):
            for number in range(passed, last + 1):
                with self._dense.block(number) as block:
                    for states in dense:
                        states.forward(block)
            passed = last + 1
            with self._pruned.block(index) as block:
                if not self._is_done(index):
                    train, test = (Lesson(p, d.hidden) for p, d in zip(pruned, dense, strict=True))
                    self._keep(index, self._tune(block, train, test))
                parameters = block.module.parameters()
                for parameter, tensor in zip(parameters, self._tensors(index).values(), strict=True):
                    parameter.data.copy_(tensor)
                for states in pruned if index + 1 < self._target.blocks else []:
                    states.forward(block)
            self._reporter.tick(index, 0)
            yield

    def _tune(self, block: Block, train: Lesson, held: Lesson) -> TunedBlock:
        stored = self._pruned.checkpoint.read(self._pruned.tensor_names(block.index))
        tuned = tune_block(block, stored, train, held, self._settings)
        came = f"{tuned.before:.3%} -> {tuned.after:.3%} on held-out windows"
        same = "" if tuned.epoch else ", unchanged"
        self._reporter.note(f"Block {block.index + 1} of {self._target.blocks}: error {came}{same}")
        return tuned

    def _keep(self, index: int, tuned: TunedBlock) -> None:
        """Write a block's tuned weights and result."""
        self._writer.write_tensors(_tuned_part(index), tuned.tensors)
        self._known[index] = {"block": index, "before": tuned.before, "after": tuned.after, "epoch": tuned.epoch}
        blocks = [self._known[each] for each in sorted(self._known)]
        self._writer.write(TUNING_PART, readable_json({"blocks": blocks}))

    def _check(self) -> CheckedRecord:
        """Read the written model back; raises LangpruneError if anything but kept weights of the blocks has changed."""
        names = dict.fromkeys(name for index in range(self._target.blocks) for name in self._pruned.tensor_names(index))
        known: CheckedRecord = self._writer.manifest.about.get("checked") or {}
        return check_trained(self._writer.folder, self._places, self._pruned, self._dense, names, known)


def _tuned_part(index: int) -> str:
    """Return the part of block `index`, kept until its shard is written."""
    return f"tuned-{index:03d}.safetensors"


class BlockTuning(TypedDict):
    """The result of tuning a block, see `TunedBlock`."""

    block: int
    before: float
    after: float
    epoch: int


def read_tuned(artifact: Artifact) -> list[BlockTuning]:
    """Return the result of tuning each block."""
    blocks: list[BlockTuning] = json.loads(artifact.read(TUNING_PART))["blocks"]
    return blocks
