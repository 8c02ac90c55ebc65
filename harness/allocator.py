"""Memory that this process keeps for itself, between one large tensor and the next."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers them
_KEPT, _MOST_FORMERLY = 1 << 30, 1 << 25  # bytes; glibc before 2.34 takes no more than the latter


def keep_freed_memory() -> None:
    """Keep what is freed, up to 1 GB a block, for what is allocated next. Only glibc is told, and only if nobody has.

    By itself it gives blocks of more than 32 MB, and the free end of its heap, back to the system at once, and has to
    get them anew, a page fault for each 4 KB: half of the time in which a network with such activations is trained on
    the CPU. Forks of this process keep theirs, too.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if tell is not None:
        tell(_MMAP_THRESHOLD, _KEPT) or tell(_MMAP_THRESHOLD, _MOST_FORMERLY)
        tell(_TRIM_THRESHOLD, _KEPT)
