"""Memory that is kept: of freed tensors, for others of the same size, and of few compiled products."""

import ctypes
import os
import sys
from functools import cache

LARGEST_KEPT = 32 << 20  # bytes; glibc never keeps larger blocks
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h, for mallopt
_MOST_KEPT = 1 << 30
# oneDNN's own cache of compiled products, and the one that torch has before it.
_CACHES_OF_PRODUCTS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_PRODUCTS_KEPT = "64"


def keep_freed() -> None:
    """Keep freed memory for the next tensors of the same size, if the C library is glibc.

    By default glibc gives blocks of some megabytes back at once, and the system must hand out new pages in every layer of every
    forward pass: a tenth of the time of `prune`. `give_back_freed` bounds the kept memory.
    """
    libc = _glibc()
    if libc:
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def keep_few_products() -> None:
    """Let oneDNN keep few compiled products, unless the user's environment says how many; call it before torch is loaded.

    oneDNN compiles a product for every shape, in about 0.6 MB, and keeps 1,024 of them, as torch does before it. Each expert of a
    mixture sees another number of tokens in each block, so that memory grew with the blocks. A dense model has few shapes.
    """
    for name in _CACHES_OF_PRODUCTS:
        os.environ.setdefault(name, _PRODUCTS_KEPT)


def give_back_freed() -> None:
    """Give freed memory back to the system, in milliseconds; does nothing without glibc.

    Freed blocks of one size do not serve another: after the matrices of a few sites, a process holds a quarter more than it
    uses.
    """
    libc = _glibc()
    if libc:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "malloc_trim") else None
