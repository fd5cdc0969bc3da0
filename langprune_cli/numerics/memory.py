"""Memory that was freed, given back to the system."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back_freed() -> None:
    """Give freed memory back to the system; takes milliseconds, and does nothing where the C library is another than glibc.

    glibc keeps blocks of up to 32 MB that were freed, and those of one size are of no use to the next: after the matrices
    of a few sites a process holds a quarter more than it uses.
    """
    trim = _trim()
    if trim:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
