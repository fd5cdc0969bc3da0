"""Reads a safetensors checkpoint, one file or sharded, a few tensors at a time, and computes its digest."""

import copy
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.model_files import INDEX, SINGLE, weight_files, weight_map
from langprune_cli.models.tensor_entry import DTYPES, TensorEntry, rows_of
from langprune_cli.numerics.values import all_finite
from langprune_cli.store.files import canonical_json, disk_errors, weights_digest
from langprune_cli.store.written import Written

_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
MOST_TENSORS = 300_000  # of a model; the largest published ones have half as many
_PIECE = 1 << 24  # bytes compared at a time
_SAMPLE = 4096  # bytes read at the start, middle and end of each tensor for the digest


class _TensorRecord(TypedDict):
    """One tensor's record in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


class Checkpoint:
    """An opened checkpoint: names, shapes and places of all its tensors; values are read on demand.

    `tensors` has the tensors of the files. `entries` has what is read and written: these, or their parts (`in_parts`).

    Opening checks every shard's header against the index and the file's length, so that a truncated download fails at once,
    not after an hour.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises LangpruneError for missing, damaged or irregular files, for more tensors than any model has, and for two files
        with different values of one tensor: readers would disagree on which of them counts.
        """
        self.folder = folder
        self.written = Written(folder)
        self.entries: dict[str, TensorEntry] = {}
        self.tensors = self.entries
        self._finite: set[str] = set()  # tensors already checked; some are read more than once
        files = weight_map(folder)
        for file in weight_files(folder):
            found = read_header(folder, file, MOST_TENSORS - len(self.entries))
            for name in sorted(found.keys() & self.entries.keys()):
                if not self._same_bytes(self.entries[name], found[name]):
                    raise LangpruneError(
                        f"{folder} holds two different tensors {name}, in {self.entries[name].file} and in {file}: get the "
                        "checkpoint again"
                    )
            self.entries.update(found)
        if files and SINGLE not in files.values() and (folder / SINGLE).exists():
            raise LangpruneError(
                f"{folder} holds both {INDEX} and {SINGLE}, and transformers reads only the latter: remove the wrong one"
            )
        if missing := sorted(set(files) - set(self.entries)):
            raise LangpruneError(
                f"{folder / INDEX} names the tensor {missing[0]}, which {files[missing[0]]} does not hold; "
                "get the checkpoint again"
            )

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by name, each in memory of its own.

        A file written by langprune is first checked against its record, once per process; raises LangpruneError if it changed.
        Reading is faster than mapping the file, and mapped pages would count as the process's memory.
        """
        wanted = list(names)
        self.written.check(*{self.entries[name].file for name in wanted})
        return {name: read_entry(self.folder, self.entries[name]) for name in wanted}

    def read_finite(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors as `read` does; raises LangpruneError for an infinite or NaN value."""
        tensors = self.read(names)
        for name, tensor in tensors.items():
            if name not in self._finite and tensor.is_floating_point() and not all_finite(tensor):
                raise LangpruneError(
                    f"{self.folder}: {name} holds values that are not finite: get the checkpoint again"
                )
            self._finite.add(name)
        return tensors

    def begin_hashes(self, *, on_record: bool) -> None:
        """Start hashing, in threads, the files with (or without) langprune's record; `check` and `weights_sha256` wait for it."""
        for file in {entry.file for entry in self.entries.values()}:
            if (file in self.written) is on_record:
                self.written.begin(file)

    def check(self) -> None:
        """Raise LangpruneError if a weights file changed since langprune wrote it."""
        self.written.check(*{entry.file for entry in self.entries.values()})

    @cached_property
    def weights_sha256(self) -> str:
        """Return a sha256 over every byte of the weights, whatever the files are called.

        For files that langprune wrote it is on record, and checked when they are read. Other files are read whole.
        """
        files = {entry.file for entry in self.entries.values()}
        return weights_digest(map(self.written.sha256, files))

    def same_values(self, one: str, other: str, dtype: torch.dtype) -> bool:
        """Return whether two tensors are equal after conversion to `dtype`; reads a few rows at a time."""
        return self._equal(self.entries[one], self.entries[other], dtype)

    def _same_bytes(self, first: TensorEntry, second: TensorEntry) -> bool:
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        one, other = (replace(entry, dtype="U8", shape=(entry.size,)) for entry in (first, second))  # NaN equals itself
        return self._equal(one, other, torch.uint8)

    def _equal(self, first: TensorEntry, second: TensorEntry, dtype: torch.dtype) -> bool:
        if first.shape != second.shape:
            return False
        rows = first.shape[0] if first.shape else 1
        step = max(1, rows * _PIECE // max(1, first.size))
        pieces = (
            [read_entry(self.folder, rows_of(each, start, step)).to(dtype) for each in (first, second)]
            for start in range(0, rows, step)
        )
        return all(torch.equal(*piece) for piece in pieces)

    def renamed(self, names: Mapping[str, str]) -> "Checkpoint":
        """Return the same values under other names, without those that have no new name."""
        other = copy.copy(self)
        kept = {name: entry for name, entry in self.entries.items() if name in names}
        other.entries = {names[name]: entry for name, entry in kept.items()}
        whole = {entry.tensor(name): entry.tensor(names[name]) for name, entry in kept.items()}
        other.tensors = {new: self.tensors[old] for old, new in whole.items()}
        return other

    def in_parts(self, parts: Mapping[str, TensorEntry]) -> "Checkpoint":
        """Return the same checkpoint with parts in the place of their tensors. Entries without a `part` are ignored.

        Raises LangpruneError if the parts do not add up to the tensor, and for a tensor with the name of a part.
        """
        found: dict[str, list[tuple[str, TensorEntry]]] = {}
        for name, entry in parts.items():
            if entry.part:
                found.setdefault(entry.tensor(name), []).append((name, entry))
        other = copy.copy(self)
        other.entries = {name: entry for name, entry in self.tensors.items() if name not in found}
        for holder, inside in found.items():
            end = self.tensors[holder].start if holder in self.tensors else -1
            for name, entry in sorted(inside, key=lambda item: item[1].start):
                if entry.start != end or name in self.tensors:
                    raise LangpruneError(f"{self.folder}: {holder} does not hold {name}: get the checkpoint again")
                other.entries[name] = entry
                end += entry.size
            if end != self.tensors[holder].start + self.tensors[holder].size:
                raise LangpruneError(f"{self.folder}: {holder} is larger than its parts: get the checkpoint again")
        return other

    def expect(self, names: Iterable[str]) -> None:
        """Ask the system to read tensors into its page cache ahead of use.

        It costs the process neither memory nor time. On systems without such a request it does nothing.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        wanted = [self.entries[name] for name in names]
        for file in {entry.file for entry in wanted}:
            with suppress(OSError), (self.folder / file).open("rb") as opened:
                for entry in wanted:
                    if entry.file == file:
                        os.posix_fadvise(opened.fileno(), entry.start, entry.size, os.POSIX_FADV_WILLNEED)

    def float_dtype(self) -> torch.dtype:
        """Return the dtype of the first floating-point tensor, float32 if there is none."""
        dtypes = (DTYPES[entry.dtype] for entry in self.entries.values())
        return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)

    def elements(self, name: str) -> int:
        """Return the number of values of a tensor."""
        return math.prod(self.entries[name].shape)

    def parameters(self) -> int:
        """Return the number of values of all tensors."""
        return sum(map(self.elements, self.entries))

    def size(self) -> int:
        """Return the size of all tensors in bytes."""
        return sum(entry.size for entry in self.entries.values())

    def digest(self) -> str:
        """Return a sha256 that tells this checkpoint from others, without reading all of it.

        It covers config.json's bytes, every tensor's name, dtype and shape, and three samples of 4 KiB of each tensor's
        values; not file names or sharding. A fine-tuned or pruned copy differs in it; a single changed byte may not.
        """
        config = self.folder / "config.json"
        with disk_errors(config, reading=True):
            total = hashlib.sha256(config.read_bytes())
        ordered = sorted(self.tensors.items())
        for shard, entries in groupby(ordered, key=lambda item: item[1].file):  # neighbours are mostly in one file
            path = self.folder / shard
            with disk_errors(path, reading=True), path.open("rb") as file:
                for name, entry in entries:
                    total.update(canonical_json([name, entry.dtype, entry.shape]).encode())
                    last = max(0, entry.size - _SAMPLE)
                    for offset in sorted({0, last // 2, last}):
                        file.seek(entry.start + offset)
                        total.update(file.read(min(_SAMPLE, entry.size)))
        return total.hexdigest()


def read_entry(folder: Path, entry: TensorEntry) -> Tensor:
    """Return the values of an entry of a checkpoint in `folder`."""
    path = folder / entry.file
    data = torch.empty(entry.size, dtype=torch.uint8)
    left = data.numpy().data
    with disk_errors(path, reading=True), path.open("rb", buffering=0) as file:
        file.seek(entry.start)
        while left and (count := file.readinto(left)):  # at most 2 GB at once
            left = left[count:]
    if left:
        raise _corrupt(path, "it became shorter after it was opened")
    return data.view(DTYPES[entry.dtype]).view(entry.shape)


def read_header(folder: Path, file: str, most: int) -> dict[str, TensorEntry]:
    """Read and check one file's header: 8 bytes of length, JSON, then data up to the end of the file.

    most: how many tensors it may have.
    """
    path = folder / file
    raw, total = _header_bytes(path, most)
    try:
        header: dict[str, _TensorRecord] = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {name: _entry(file, 8 + len(raw), record) for name, record in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, "its header is not readable") from error
    end = 8 + len(raw)
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)):
        if entry.start != end:  # the format leaves no holes, and no two tensors share bytes
            raise _corrupt(path, f"{name} begins at byte {entry.start}, where {end} was expected")
        end += entry.size
    if end != total:
        raise _corrupt(path, f"its header promises {end} bytes and the file has {total}")
    for name, entry in entries.items():
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise LangpruneError(
                f"{path} holds {name} as {entry.dtype}: quantized checkpoints cannot be pruned, name the original model"
            )
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise _corrupt(path, f"{name} has {entry.size} bytes, which do not fit its shape {list(entry.shape)}")
    return entries


def _header_bytes(path: Path, most: int) -> tuple[bytes, int]:
    """Return the JSON of a file's header and the file's size; raises LangpruneError for more than `most` tensors."""
    with disk_errors(path, reading=True):
        if not path.is_file():
            raise LangpruneError(f"{path} is missing: get the checkpoint again")
    with disk_errors(path, reading=True), path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        total = path.stat().st_size
        if total < 8 or length > min(_MOST_HEADER_BYTES, total - 8):
            raise _corrupt(path, f"{total} bytes are too few for its header")
        raw = opened.read(length)
    # Checked before parsing, which takes seconds and a gigabyte for a million tensors.
    if raw.count(b'"data_offsets"') > most:
        raise LangpruneError(
            f"{path} brings the checkpoint to more than {MOST_TENSORS:,} tensors, more than any model has: get it again"
        )
    return raw, total


def _entry(file: str, data: int, record: _TensorRecord) -> TensorEntry:
    """Return the entry of one tensor's record, its offsets counted from `data`; raises ValueError for an invalid record."""
    dtype, shape, (start, end) = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in (start, end, *shape)):
        raise ValueError("a record needs a dtype and sizes in whole numbers")
    return TensorEntry(file, dtype, tuple(shape), data + start, end - start)


def _corrupt(path: Path, what: str) -> LangpruneError:
    return LangpruneError(f"{path} is corrupt or truncated ({what}): get the checkpoint again")
