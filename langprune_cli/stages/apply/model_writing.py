"""Writes a pruned model as a Hugging Face folder, block by block, and checks what is on disk: for `apply` and `prune`."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.machine.threads import over_rows
from langprune_cli.models.checkpoint import Checkpoint, read_entry
from langprune_cli.models.model_files import INDEX, SMALL_FILES
from langprune_cli.models.shards import Shard, index_json, plan_shards, write_shard
from langprune_cli.models.tensor_entry import TensorEntry, rows_of
from langprune_cli.numerics.patterns import Pattern, follows
from langprune_cli.numerics.values import bytes_of, count_true, same_bits
from langprune_cli.stages.apply.text_only import TextTower
from langprune_cli.stages.solving.allocating import BlockPattern
from langprune_cli.stages.solving.updating import PrunedLinear, UpdatedLinear
from langprune_cli.stages.structured.cut import Cut, sizes_of_opened
from langprune_cli.stages.structured.keep_masks import BlocksOfMasks
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import need_space, readable_json
from langprune_cli.store.plain import plain_file
from langprune_cli.store.written import check_written
from langprune_cli.streaming.opened import OpenedModel

PRUNING_PART = "pruning.json"  # the result of each linear
_SPARE_BYTES = 10_000_000  # for the small files
_PIECE = 1 << 24  # bytes compared at a time

NewWeights = Callable[[int], dict[str, UpdatedLinear]]  # block index -> its pruned linears by name


class ModelWriter:
    """Writes the shards of a pruned model in order, and gets new weights one block at a time."""

    def __init__(
        self,
        writer: ArtifactWriter,
        model: OpenedModel,
        max_shard_bytes: int,
        cut: Cut | None = None,
        tower: TextTower | None = None,
    ) -> None:
        """Plan the shards, with `cut` for a smaller model, and with `tower` for a text tower alone."""
        self.writer = writer
        self.model = model
        self.cut = cut
        self.tower = tower
        self._sources = cut.sources if cut else {}
        self._groups = (-1, *(cut.blocks if cut else range(self.blocks)))  # by index in the dense model
        self.shards = plan_shards([self._entries(group) for group in self._groups], max_shard_bytes)
        self._checksums: dict[str, int] = {}  # of the tensors written by this run

    @property
    def blocks(self) -> int:
        """Return the number of blocks of the dense model."""
        return len(self.model.streamed.blocks)

    @property
    def places(self) -> dict[str, TensorEntry]:
        """Return where each tensor, or part of one, lies by the name that it is written under."""
        return {name: entry for shard in self.shards for name, entry in shard.entries.items()}

    def todo(self) -> list[Shard]:
        """Return the shards that are not on disk yet, or all if their linears' results are not on record."""
        known = self.writer.has(PRUNING_PART)
        return [shard for shard in self.shards if not (known and self.writer.has(shard.file))]

    def need_space(self, beside: int = 0) -> None:
        """Raise LangpruneError if the disk has no room for the remaining shards, and for `beside` bytes of other files."""
        need_space(self.writer.folder, sum(shard.size for shard in self.todo()) + beside + _SPARE_BYTES)

    def write(
        self, new_weights: NewWeights, done: Callable[[int], None], outside: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the missing shards, then the small files, then the index, without which the folder is no model.

        Calls new_weights for the blocks of those shards, in order, and `done` after each. outside: new tensors outside of the
        blocks, by name.
        """
        # Results go on record once there are some for every shard on disk: a run that is interrupted before writes all again.
        lost = {shard.file for shard in self.todo() if self.writer.has(shard.file)}
        results = self._recorded()
        for shard in self.todo():
            with self.writer.part(shard.file) as temporary:
                write_shard(temporary, shard, self._tensors(shard, new_weights, results, done, outside or {}))
                lost.discard(shard.file)
                if not lost:
                    self.writer.write(PRUNING_PART, readable_json({"linears": self._in_order(results)}))
        for path in sorted(self.model.location.folder.iterdir()):
            wanted = SMALL_FILES.fullmatch(path.name) or (self.model.compute.trust_remote_code and path.suffix == ".py")
            if wanted and path.name not in {INDEX, PRUNING_PART} and not self.writer.has(path.name):
                check_written(path)
                data = plain_file(path, within=self.model.location.folder).read_bytes()
                left = self.cut.file(path.name, data) if self.cut else data
                left = self.tower.file(path.name, left) if self.tower and left is not None else left
                if left is not None:
                    self.writer.write(path.name, left)
        if len(self.shards) > 1 and not self.writer.has(INDEX):
            self.writer.write(INDEX, index_json(self.shards))

    def finish(
        self, masks: BlocksOfMasks, patterns: Sequence[BlockPattern], reporter: Reporter, **about: object
    ) -> Artifact:
        """Check the files on disk (see `check`), add the last facts to `about`, and mark the artifact complete."""
        return self.writer.finish(checked=self.check(masks, patterns, reporter), **about)

    def _recorded(self) -> list[dict[str, object]]:
        """Return the recorded results of the shards on disk."""
        if not self.writer.has(PRUNING_PART):
            return []
        known = self._known()
        whole = {name for shard in self.shards if self.writer.has(shard.file) for name in shard.entries}
        written = {name: each for group in self._groups for name, each in self._names(group).items()}
        return [asdict(each) for each in known if written.get(each.linear) in whole]

    def _in_order(self, results: list[dict[str, object]]) -> list[dict[str, object]]:
        """Return results of linears in the order of the blocks, whatever the order in which their shards were written."""
        groups = (self.model.streamed.linears(group) for group in self._groups if group >= 0)
        place = {linear.name: (number, at) for number, each in enumerate(groups) for at, linear in enumerate(each)}
        return sorted(results, key=lambda each: place[str(each["linear"])])

    def _names(self, group: int) -> dict[str, str]:
        """Return dense name -> written name of a block's tensors, or with -1 of those outside of all blocks."""
        streamed = self.model.streamed
        names = [*streamed.outside_names(), *self._sources] if group < 0 else streamed.tensor_names(group)
        new = {name: self.cut.name(group, name) if self.cut else name for name in names}
        if self.tower:
            new = {name: each and self.tower.name(group, name, each) for name, each in new.items()}
        return {name: written for name, written in new.items() if written is not None}

    def _entries(self, group: int) -> dict[str, TensorEntry]:
        """Return the tensors of a group by their written names."""
        found, cut = {}, self.cut
        for name, written in self._names(group).items():
            dense = self.model.streamed.checkpoint.entries[self._sources.get(name, name)]
            found[written] = cut.entry(group, name, dense) if cut else dense
        return found

    def _tensors(
        self,
        shard: Shard,
        new_weights: NewWeights,
        pruned: list[dict[str, object]],
        done: Callable[[int], None],
        outside: Mapping[str, Tensor],
    ) -> Iterator[dict[str, Tensor]]:
        for group in (self._groups[place] for place in shard.groups):
            updated = new_weights(group) if group >= 0 else {}
            new = {name: each.tensor for name, each in updated.items()} if group >= 0 else outside
            for name, written in self._names(group).items():
                tensor = self._left(group, name, new.get(name))
                self._checksums[written] = _checksum(tensor)
                yield {written: tensor}
                del tensor  # frees it before the next one is read
            if group >= 0:
                linears = [linear.name for linear in self.model.streamed.linears(group)]
                pruned += [asdict(updated[name].pruned) for name in linears if name in updated]
                done(group)
            new = {}
            updated.clear()  # frees them before the next block

    def _left(self, group: int, name: str, new: Tensor | None = None) -> Tensor:
        """Return the written form of a tensor of the dense model, or of a new one in its place."""
        source = self._sources.get(name, name)
        tensor = self.model.streamed.checkpoint.read_finite([source])[source] if new is None else new
        return self.cut.tensor(group, name, tensor) if self.cut else tensor

    def check(self, masks: BlocksOfMasks, patterns: Sequence[BlockPattern], reporter: Reporter) -> dict[str, float]:
        """Read the written folder back and compare it with its source; return counts.

        Every tensor must have the bytes that were written (resuming checks those of an interrupted run). Unpruned tensors must
        equal the dense model's, except for removed parts, and pruned weights must be +0.0, in the pattern's numbers. A smaller
        model must have exactly the tensors of its configuration. Raises LangpruneError for a tensor that fails this.
        """
        written = Checkpoint(self.writer.folder).in_parts(self.places)
        counts = Counts()
        readers = {each.linear for each in self._known()} if self.cut else set()
        reporter.begin(f"check {self.writer.folder.name}", self.blocks, 0)
        for group in self._groups:
            kept = {} if self.cut else {linear.name: (linear, keep) for linear, keep in masks.block(group)}
            names = self._names(group)
            for dense_name, name in names.items():
                if dense_name not in kept and (not self.cut or self.cut.copies(group, dense_name)):
                    if not self._is_copy(dense_name, written, name):
                        raise damaged(self.writer.folder, name)
                    counts.untouched_tensors += 1
                    continue
                found = written.read([name])[name]
                right = self._checksums.get(name) in {None, _checksum(found)}
                if dense_name in kept:
                    linear, keep = kept[dense_name]
                    weight = found.t() if linear.transposed else found
                    zeros, follows_mask = _zeros(weight, keep, patterns[group].of(linear))
                    right &= follows_mask
                    counts.zeros += zeros
                    counts.pruned_weights += found.numel()
                elif dense_name not in readers:
                    right &= same_bits(found, self._left(group, dense_name))
                    counts.untouched_tensors += 1
                if not right:
                    raise damaged(self.writer.folder, name)
                del found
            if group >= 0:
                linears = [linear.name for linear in self.model.streamed.linears(group)]
                counts.linear_weights += sum(written.elements(names[name]) for name in linears if name in names)
                reporter.tick(group, 0)
        reporter.end()
        if self.cut:
            return asdict(counts) | {"sparsity": 0.0} | self.cut.check(self.writer.folder)
        opened = sizes_of_opened(self.model, self.writer.folder) if self.tower else {}
        sparsity = counts.zeros / counts.pruned_weights if counts.pruned_weights else 0.0
        return asdict(counts) | {"sparsity": sparsity} | opened

    def _is_copy(self, dense_name: str, written: Checkpoint, name: str) -> bool:
        """Return whether a tensor has the bytes of the dense model's and, if this run wrote it, those that it wrote.

        Reads both in pieces: a tensor outside of the blocks may be larger than a block.
        """
        checkpoint, crcs = self.model.streamed.checkpoint, b""
        entry, other = checkpoint.entries[dense_name], written.entries[name]
        checkpoint.written.check(entry.file)
        written.written.check(other.file)
        if (entry.dtype, entry.shape) != (other.dtype, other.shape):
            return False
        for one, two in zip(_pieces(checkpoint.folder, entry), _pieces(written.folder, other), strict=True):
            if not torch.equal(one, two):
                return False
            crcs += _crcs(two)
        return self._checksums.get(name) in {None, zlib.crc32(crcs)}

    def _known(self) -> list[PrunedLinear]:
        return read_pruned(Artifact(self.writer.folder, self.writer.manifest))


@dataclass
class Counts:
    """Counts of a written model."""

    linear_weights: int = 0
    pruned_weights: int = 0  # of linears with a mask
    zeros: int = 0  # among them
    untouched_tensors: int = 0


def read_pruned(artifact: Artifact) -> list[PrunedLinear]:
    """Return the results of a model's linears, in the order of the blocks."""
    return [PrunedLinear(**each) for each in json.loads(artifact.read(PRUNING_PART))["linears"]]


def damaged(folder: Path, name: str) -> LangpruneError:
    """Return the error for a tensor that reads back differently from how it was written."""
    return LangpruneError(
        f"{folder}: {name} reads back differently from how it was written: check the disk, then run the command again with "
        "--force"
    )


def _words(tensor: Tensor) -> Tensor:
    """Return the bits of each value of a tensor, as integers."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(_crcs(tensor))


def _crcs(tensor: Tensor) -> bytes:
    """Return the checksums of slices of a tensor's bytes, one after the other; `_PIECE` is a multiple of a slice."""
    data = bytes_of(tensor).numpy().data
    return b"".join(over_rows(lambda part: zlib.crc32(data[part]).to_bytes(4, "big"), (len(data), 1), tensor.device))


def _pieces(folder: Path, entry: TensorEntry) -> Iterator[Tensor]:
    """Yield the bytes of a tensor, or of a part of one."""
    flat = replace(entry, dtype="U8", shape=(entry.size,), part=None)
    for start in range(0, entry.size, _PIECE):
        yield read_entry(folder, rows_of(flat, start, _PIECE))


def _zeros(
    weight: Tensor,  # [o, i]
    keep: Tensor,  # bool [o, i]
    pattern: Pattern,
) -> tuple[int, bool]:
    """Return the number of zeros, and whether pruned weights are +0.0 and kept ones match the pattern's numbers."""

    def look(rows: slice) -> tuple[int, bool]:
        part = weight[rows]
        right = bool((_words(part) == 0).logical_or_(keep[rows]).all()) and follows(part, pattern)
        return count_true(part == 0), right

    found = over_rows(look, weight.shape, weight.device)
    return sum(zeros for zeros, _ in found), all(right for _, right in found)
