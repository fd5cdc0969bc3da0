"""Keeps tensors in a file, one at a time in memory, for hidden states that do not fit into memory."""

import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from langprune_cli.store.files import disk_errors


class TensorFile(Sequence[Tensor]):
    """A list of tensors in an unnamed file, which disappears with the process.

    Getting an item reads the tensor and setting it writes it; no page of the file stays in the process's memory.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file in `folder`; raises LangpruneError if the folder is not writable."""
        self._folder = folder
        self._places: list[tuple[int, torch.dtype, torch.Size, torch.device]] = []
        with disk_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as this does
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._places)

    def append(self, tensor: Tensor) -> None:
        """Append a tensor; raises LangpruneError if the disk is full, as `__setitem__` does."""
        last = self._places[-1] if self._places else None
        start = last[0] + last[1].itemsize * last[2].numel() if last else 0
        self._places.append((start, tensor.dtype, tensor.shape, tensor.device))
        self[len(self) - 1] = tensor

    def __setitem__(self, index: int, tensor: Tensor) -> None:
        """Replace a tensor; raises ValueError if the new one has another dtype or shape."""
        start, dtype, shape, _ = self._places[index]
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            raise ValueError(f"only a tensor of {dtype} {list(shape)} fits here")
        with disk_errors(self._folder):
            self._file.seek(start)
            self._file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            self._file.flush()  # fails now if the disk is full

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Return one tensor or several on their original device; raises IndexError past the end."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start, dtype, shape, device = self._places[index]
        data = torch.empty(dtype.itemsize * shape.numel(), dtype=torch.uint8)
        with disk_errors(self._folder, reading=True):
            self._file.seek(start)
            self._file.readinto(data.numpy().data)
        return data.view(dtype).view(shape).to(device)
