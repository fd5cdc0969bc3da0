"""How work that only makes trips to memory is shared between cores: slices of rows that fit into a core's cache."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

Found = TypeVar("Found")

# Weights in a slice: in float32 one megabyte, which with what is made of it stays in a core's second-level cache.
_SLICE = 1 << 18


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch from sharing work of some ten microseconds between threads.

    Waiting for the other one costs up to a hundred times what it saves on a busy machine (docs/decisions.md).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def over_rows(
    work: Callable[[slice], Found],
    shape: tuple[int, ...],  # of a matrix whose rows do not influence one another: (rows, columns)
    device: torch.device,
) -> list[Found]:
    """Call `work` with slices of rows that make up a matrix, and return what it returned, in the order of the rows.

    On a CPU by as many threads as torch has, each of which does its slice alone: operations on a whole matrix would make
    a trip to memory each. A GPU wants few and large operations, and is given all rows at once.
    """
    rows, columns = shape
    if device.type != "cpu":
        return [work(slice(0, rows))]
    step = max(1, _SLICE // max(1, columns))
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    threads = torch.get_num_threads()
    if threads > 1 and len(slices) > 1:
        return list(_pool(threads).map(work, slices))
    with one_thread():
        return list(map(work, slices))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for slices from one matrix to the next; each takes operations of torch for itself alone."""
    return ThreadPoolExecutor(threads, "rows", initializer=_alone)


def _alone() -> None:
    torch.get_num_threads()  # or torch would set what the others have when this thread first asks
    torch.set_num_threads(1)
