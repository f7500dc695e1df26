"""Tell the C library to keep freed memory. Measured on a CPU: training runs up to twice as fast.

torch gives large tensors back to the kernel after every operator and asks for them anew, and the page faults cost as
much as the arithmetic. Only allocation changes: the numbers do not. A process-wide setting, so only the command
line makes it.
"""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_heap() -> None:
    """Make malloc serve large blocks from the heap and never trim it; does nothing but on glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 256 << 20)
