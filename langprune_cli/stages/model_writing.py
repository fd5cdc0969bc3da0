"""Write a pruned model as a Hugging Face folder, block by block, then read it back and check it: for `apply` and `prune`."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint, TensorEntry
from langprune_cli.models.model_files import INDEX, SMALL_FILES
from langprune_cli.models.shards import Shard, index_json, plan_shards, write_shard
from langprune_cli.numerics.patterns import Pattern, follows
from langprune_cli.stages.keep_masks import MaskReader
from langprune_cli.stages.opened import OpenedModel
from langprune_cli.stages.run import Reporter
from langprune_cli.stages.updating import Pruned, Updated
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.files import need_space, readable_json

PRUNING_PART = "pruning.json"  # what became of each linear
_SPARE_BYTES = 10_000_000  # for the small files beside the weights

NewWeights = Callable[[int], dict[str, Updated]]  # block index -> its pruned linears by name


class ModelWriter:
    """Writes the shards of a pruned model in order; the blocks' new weights are asked for one block at a time."""

    def __init__(self, writer: ArtifactWriter, model: OpenedModel, max_shard_bytes: int) -> None:
        self.writer = writer
        self.model = model
        self.shards = plan_shards([self._entries(group) for group in range(-1, self.blocks)], max_shard_bytes)
        self._checksums: dict[str, int] = {}  # of the tensors that this run has written

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return len(self.model.streamed.blocks)

    def todo(self) -> list[Shard]:
        """Return the shards that are not on disk yet; all of them where the record of what became of their linears is not."""
        if not self.writer.has(PRUNING_PART):
            return self.shards
        return [shard for shard in self.shards if not self.writer.has(shard.file)]

    def need_space(self) -> None:
        """Raise LangpruneError where the disk has no room for what is still to be written."""
        need_space(self.writer.folder, sum(shard.size for shard in self.todo()) + _SPARE_BYTES)

    def write(self, new_weights: NewWeights, done: Callable[[int], None]) -> None:
        """Write the shards that are not there yet, then the small files, then the index: the last makes it a model.

        new_weights is called for the blocks of those shards, in order, and `done` after each.
        """
        for shard in self.todo():
            pruned: list[dict[str, object]] = []
            with self.writer.part(shard.file) as temporary:
                write_shard(temporary, shard, self._tensors(shard, new_weights, pruned, done))
                self.writer.write(PRUNING_PART, readable_json({"linears": self._recorded() + pruned}))
        for path in sorted(self.model.location.folder.iterdir()):
            wanted = SMALL_FILES.fullmatch(path.name) or (self.model.compute.trust_remote_code and path.suffix == ".py")
            if wanted and path.name not in {INDEX, PRUNING_PART} and not self.writer.has(path.name):
                self.writer.write(path.name, path.read_bytes())
        if len(self.shards) > 1 and not self.writer.has(INDEX):
            self.writer.write(INDEX, index_json(self.shards))

    def finish(self, masks: MaskReader, patterns: Sequence[Pattern], reporter: Reporter) -> Artifact:
        """Check what was written (see `check`), and mark the artifact complete."""
        return self.writer.finish(checked=self.check(masks, patterns, reporter))

    def _recorded(self) -> list[dict[str, object]]:
        """Return what is on record of the shards that are on disk."""
        if not self.writer.has(PRUNING_PART):
            return []
        known = read_pruned(Artifact(self.writer.folder, self.writer.manifest))
        whole = {name for shard in self.shards if self.writer.has(shard.file) for name in shard.entries}
        return [asdict(each) for each in known if each.linear in whole]

    def _names(self, group: int) -> list[str]:
        """Return the tensors of a block, or with -1 those outside of all blocks."""
        return self.model.streamed.outside_names() if group < 0 else self.model.streamed.tensor_names(group)

    def _entries(self, group: int) -> dict[str, TensorEntry]:
        entries = self.model.streamed.checkpoint.entries
        return {name: entries[name] for name in self._names(group)}

    def _tensors(
        self,
        shard: Shard,
        new_weights: NewWeights,
        pruned: list[dict[str, object]],
        done: Callable[[int], None],
    ) -> Iterator[dict[str, Tensor]]:
        for group in (place - 1 for place in shard.groups):
            updated = new_weights(group) if group >= 0 else {}
            for name in self._names(group):
                tensor = updated[name].tensor if name in updated else self._dense(name)
                self._checksums[name] = _checksum(tensor)
                yield {name: tensor}
            if group >= 0:
                linears = [linear.name for linear in self.model.streamed.linears(group)]
                pruned += [asdict(updated[name].pruned) for name in linears if name in updated]
                done(group)

    def _dense(self, name: str) -> Tensor:
        return self.model.streamed.checkpoint.read([name])[name]

    def check(self, masks: MaskReader, patterns: Sequence[Pattern], reporter: Reporter) -> dict[str, int | float]:
        """Open the folder that was written and compare it with what it should be; return counts.

        Every tensor has the bytes that were written (those of an interrupted run were compared when it was taken up), what
        is not pruned has the dense model's, and weights that a mask does not keep are +0.0, in the pattern's numbers.
        Raises LangpruneError for a tensor of which this is not so.
        """
        written = Checkpoint(self.writer.folder)
        zeros = pruned = unchanged = linear_weights = 0
        reporter.begin(f"check {self.writer.folder.name}", self.blocks, 0)
        for group in range(-1, self.blocks):
            kept = {linear.name: (linear, keep) for linear, keep in masks.block(group)}
            for name in self._names(group):
                found = written.read([name])[name]
                right = self._checksums.get(name) in {None, _checksum(found)}
                if name in kept:
                    linear, keep = kept[name]
                    seen = found.t() if linear.transposed else found
                    zero = _words(seen) == 0  # +0.0 and nothing else
                    right &= bool(zero.logical_or(keep).all()) and follows(seen, patterns[group])
                    zeros += int((found == 0).sum())
                    pruned += found.numel()
                else:
                    right &= torch.equal(_bits(found), _bits(self._dense(name)))
                    unchanged += 1
                if not right:
                    raise LangpruneError(
                        f"{self.writer.folder}: {name} reads back other than it was written: check the disk, then run the "
                        "command again with --force"
                    )
            if group >= 0:
                linear_weights += sum(written.elements(linear.name) for linear in self.model.streamed.linears(group))
                reporter.tick(group, 0)
        reporter.end()
        return {
            "linear_weights": linear_weights,
            "pruned_weights": pruned,
            "zeros": zeros,
            "sparsity": zeros / pruned if pruned else 0.0,
            "untouched_tensors": unchanged,
        }


def read_pruned(artifact: Artifact) -> list[Pruned]:
    """Return what became of each linear of a model, in the order of the blocks."""
    return [Pruned(**each) for each in json.loads(artifact.read(PRUNING_PART))["linears"]]


def _bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, so that -0.0 differs from 0.0 and NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _words(tensor: Tensor) -> Tensor:
    """Return the bits of each value of a tensor, as integers."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(_bits(tensor).numpy().data)
