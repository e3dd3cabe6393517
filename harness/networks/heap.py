"""The C library's heap while tensors of one size come and go.

glibc gives large blocks back to the system when they are freed, and gets new ones, page by page zeroed, for
the next step: 8,000 page faults a step of the small network, a quarter of its time.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# malloc.h's names for mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# To where glibc's own adjustment would go with blocks as large as ours; set once it adjusts nothing any more.
_LARGEST_THRESHOLD = 32 * 1024 * 1024  # bytes
_MAPPED_BLOCKS = 65536  # glibc's default


@contextmanager
def kept() -> Iterator[None]:
    """Within it this process keeps what it frees, for the next block; it does nothing but on glibc.

    Not for work that frees much and needs it no more: the process stays as large as it was at most.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, _MAPPED_BLOCKS)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)


@cache
def _mallopt() -> Any:
    """The C library's function, None where it has none."""
    try:
        return ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows
        return None
