"""Has freed memory go back to the system; with the C library's defaults hardly any of it does, and a board needs it.

glibc's malloc keeps what it is given back, in an arena for each thread, and takes ever larger blocks from there once
such have been freed. A device that receives a model of 25 MiB then stays 120 MiB larger for good. With a threshold that
is fixed, every block from that size on is a mapping of its own, which its end returns, and all threads share one arena.

A mapping's pages are faulted in anew each time, so the threshold lies above the size of a message: with 128 KiB, an
agent without training took a quarter more processor time for a round of ResNet20, and its measured peaks were at most
a mebibyte smaller.
"""

from __future__ import annotations

import ctypes

# malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_OWN_MAPPING_BYTES = 512 * 1024  # glibc's own threshold grows up to 32 MiB unless it is set
_KEPT_BYTES = 1024 * 1024


def return_freed_memory() -> bool:
    """Have this process return what it frees; whether the C library can be told so (glibc's can)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, another platform
        return False
    settings = ((_MMAP_THRESHOLD, _OWN_MAPPING_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_ARENA_MAX, 1))
    return [mallopt(parameter, value) for parameter, value in settings] == [1] * len(settings)
