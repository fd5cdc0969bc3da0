"""Shares memory-bound work between cores, in slices of rows that fit into a core's cache."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

Found = TypeVar("Found")

# Weights in a slice: one megabyte in float32, so that it and its results stay in a core's second-level cache.
_SLICE = 1 << 18
_LEAST = 1 << 14  # weights; a smaller slice is not worth a thread of its own


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch from splitting tasks of some ten microseconds between threads.

    On a busy machine, waiting for another thread costs up to a hundred times the time saved (docs/decisions.md).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def over_rows(
    work: Callable[[slice], Found],
    shape: tuple[int, ...],  # (rows, columns) of a matrix with independent rows
    device: torch.device,
) -> list[Found]:
    """Call `work` for slices of a matrix's rows, and return the results in the order of the rows.

    On a CPU it uses as many threads as torch has, one slice per thread: each operation on a whole matrix would make a trip to
    memory. A GPU gets all rows at once, as it needs few and large operations.
    """
    rows, columns = shape
    if device.type != "cpu":
        return [work(slice(0, rows))]
    threads = torch.get_num_threads()
    least = -(-_LEAST // max(1, columns))
    step = max(1, min(_SLICE // max(1, columns), max(least, -(-rows // threads))))
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if threads > 1 and len(slices) > 1:
        return list(_pool(threads).map(work, slices))
    with one_thread():
        return list(map(work, slices))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the threads for slices, kept from one matrix to the next; each runs torch's operations by itself."""
    return ThreadPoolExecutor(threads, "rows", initializer=_alone)


def _alone() -> None:
    torch.get_num_threads()  # else torch sets the other threads' number when this thread first asks
    torch.set_num_threads(1)
