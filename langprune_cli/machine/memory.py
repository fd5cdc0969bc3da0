"""Memory that was freed: kept for what comes next, and given back to the system where that is of another size."""

import ctypes
import sys
from functools import cache

LARGEST_KEPT = 32 << 20  # bytes: larger blocks glibc never keeps
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of its malloc.h, for mallopt
_MOST_KEPT = 1 << 30


def keep_freed() -> None:
    """Let this process keep memory that it frees, for the next tensors of the size; where glibc is the C library.

    Left to itself it gives blocks of some megabytes back at once, and every layer of every forward pass would have the
    system hand out its pages anew: a tenth of the time of `prune`. `give_back_freed` bounds what is kept.
    """
    libc = _glibc()
    if libc:
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def give_back_freed() -> None:
    """Give freed memory back to the system; takes milliseconds, and does nothing where the C library is another than glibc.

    Blocks of one size that were freed are of no use to the next: after the matrices of a few sites a process holds a
    quarter more than it uses.
    """
    libc = _glibc()
    if libc:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "malloc_trim") else None
