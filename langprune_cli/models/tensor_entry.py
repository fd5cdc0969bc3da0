"""The places of tensors, and of parts of them, in safetensors files."""

from dataclasses import dataclass, replace

import torch

# In safetensors' own order of tensors.
DTYPES = {
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Part:
    """How an entry is part of a tensor."""

    suffix: str  # of its name, after the tensor's: "[3]", or "[0:64]" for rows
    stacked: bool  # the tensor stacks such parts along a new first dimension; else it concatenates them along the first


@dataclass(frozen=True)
class TensorEntry:
    """The place of one tensor, or of a part of one."""

    file: str
    dtype: str  # the format's spelling: BF16
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    size: int  # bytes
    part: Part | None = None

    def tensor(self, name: str) -> str:
        """Return the name of the tensor in the file; `name` is the entry's own."""
        return name.removesuffix(self.part.suffix) if self.part else name

    def matrix(self, number: int) -> "TensorEntry":
        """Return the entry of one of the matrices, or vectors, that are stacked in a tensor."""
        row = rows_of(self, number, 1)
        return replace(row, shape=self.shape[1:], part=Part(f"[{number}]", stacked=True))

    def rows(self, start: int, stop: int) -> "TensorEntry":
        """Return the entry of some rows of a tensor."""
        return replace(rows_of(self, start, stop - start), part=Part(f"[{start}:{stop}]", stacked=False))


def rows_of(entry: TensorEntry, start: int, count: int) -> TensorEntry:
    """Return the entry of some rows of a tensor."""
    if not entry.shape:
        return entry
    rows = entry.shape[0]
    count, each = min(count, rows - start), entry.size // rows
    return replace(entry, shape=(count, *entry.shape[1:]), start=entry.start + start * each, size=count * each)
