"""Writes a safetensors checkpoint block by block: plans the layout, then writes each tensor to its place.

The files have the bytes that safetensors itself writes (same order, same header), but only one block is in memory at a time,
and each finished shard is whole on disk before the next begins.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from langprune_cli.models.model_files import SINGLE
from langprune_cli.models.tensor_entry import DTYPE_NAMES, DTYPES, TensorEntry

MAX_SHARD_BYTES = 2_000_000_000
# Bytes that may wait to be written while the next tensors are made: writing takes as long as pruning by norms. A larger tensor
# is written before the next is made: two embeddings beside each other may be larger than all else.
_WAITING_BYTES = 64 << 20
_MOST_BYTES = 128 << 20
_DTYPE_ORDER = tuple(DTYPES)


@dataclass(frozen=True)
class Shard:
    """The plan of one file: its groups of tensors (blocks), and the place of each tensor."""

    file: str
    groups: tuple[int, ...]
    entries: dict[str, TensorEntry]
    header: bytes

    @property
    def size(self) -> int:
        """Return the size of the file in bytes."""
        return len(self.header) + sum(entry.size for entry in self.entries.values())


def plan_shards(groups: Sequence[dict[str, TensorEntry]], max_bytes: int = MAX_SHARD_BYTES) -> list[Shard]:
    """Put consecutive groups (the tensors outside of blocks, then each block) into files of up to `max_bytes`.

    A larger group gets its own file. Names follow the Hugging Face convention.
    """
    files: list[list[int]] = []
    filled = 0
    for index, group in enumerate(groups):
        size = sum(entry.size for entry in group.values())
        if not files or filled + size > max_bytes:
            files.append([])
            filled = 0
        files[-1].append(index)
        filled += size
    total = len(files)
    names = [SINGLE] if total == 1 else [f"model-{n:05d}-of-{total:05d}.safetensors" for n in range(1, total + 1)]
    return [_lay_out(name, inside, groups) for name, inside in zip(names, files, strict=True)]


def _lay_out(file: str, inside: Sequence[int], groups: Sequence[dict[str, TensorEntry]]) -> Shard:
    held: dict[
        str, list[tuple[str, TensorEntry]]
    ] = {}  # by the tensor in the file: itself, or its parts in their order
    for name, entry in sorted(_entries(inside, groups), key=lambda item: item[1].start):
        held.setdefault(entry.tensor(name), []).append((name, entry))
    # Wide dtypes first, so that every tensor starts at a multiple of its item size; then by name.
    order = sorted(held, key=lambda name: (_DTYPE_ORDER.index(held[name][0][1].dtype), name))
    record: dict[str, object] = {"__metadata__": {"format": "pt"}}
    entries = {}
    end = 0
    for tensor in order:
        start = end
        for name, entry in held[tensor]:
            entries[name] = replace(entry, file=file, start=end)
            end += entry.size
        found = [entry for _, entry in held[tensor]]
        record[tensor] = {"dtype": found[0].dtype, "shape": _shape(found), "data_offsets": [start, end]}
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    placed = {name: replace(entry, start=len(header) + entry.start) for name, entry in entries.items()}
    return Shard(file, tuple(inside), placed, header)


def _entries(inside: Sequence[int], groups: Sequence[dict[str, TensorEntry]]) -> Iterator[tuple[str, TensorEntry]]:
    for index in inside:
        yield from groups[index].items()


def _shape(parts: Sequence[TensorEntry]) -> tuple[int, ...]:
    """Return the shape of a tensor of these parts, or of the one entry that is no part."""
    first = parts[0]
    if first.part is None:
        return first.shape
    if first.part.stacked:
        return (len(parts), *first.shape)
    return (sum(entry.shape[0] for entry in parts), *first.shape[1:])


def write_shard(path: Path, shard: Shard, tensors: Iterable[dict[str, Tensor]]) -> None:
    """Write one file; `tensors` yields one group's tensors at a time, in any order, while the last ones are being written.

    Raises ValueError for a missing tensor, or one that does not fit its place.
    """
    missing = set(shard.entries)
    with path.open("wb") as file, ThreadPoolExecutor(1, "shard") as writer:
        file.write(shard.header)
        file.truncate(shard.size)
        waiting: deque[tuple[int, Future[None]]] = deque()  # size in bytes, and the write

        def write(start: int, tensor: Tensor) -> None:
            file.seek(start)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

        def hand_over(group: dict[str, Tensor]) -> None:
            for name, tensor in group.items():
                entry = shard.entries[name]
                if DTYPES[entry.dtype] != tensor.dtype or entry.shape != tuple(tensor.shape):
                    raise ValueError(f"{name} was planned as {entry.dtype} {entry.shape}")
                while waiting and (waiting[0][1].done() or sum(size for size, _ in waiting) > _WAITING_BYTES):
                    waiting.popleft()[1].result()
                waiting.append((entry.size, writer.submit(write, entry.start, tensor)))
                missing.discard(name)
                while sum(size for size, _ in waiting) > _MOST_BYTES:
                    waiting.popleft()[1].result()

        for group in tensors:
            hand_over(group)
            del group  # frees it before the next is made
        for _, written in waiting:
            written.result()
        if missing:
            raise ValueError(f"no values were given for {min(missing)}")
        file.flush()
        os.fsync(file.fileno())


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], fetch: Callable[[Tensor], Tensor] = lambda each: each.detach().cpu()
) -> None:
    """Write a file of these tensors, without a copy of them all in memory: one at a time is fetched to the CPU, in order."""
    entries = {
        name: TensorEntry("", DTYPE_NAMES[each.dtype], tuple(each.shape), 0, each.nbytes)
        for name, each in tensors.items()
    }
    (shard,) = plan_shards([entries])
    write_shard(path, shard, ({name: fetch(each)} for name, each in tensors.items()))


def index_json(shards: Sequence[Shard]) -> bytes:
    """Return the index file of several shards."""
    total = sum(entry.size for shard in shards for entry in shard.entries.values())
    weight_map = {entry.tensor(name): shard.file for shard in shards for name, entry in shard.entries.items()}
    record = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
