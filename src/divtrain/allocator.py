"""Freed memory of a process, retained for its next tensors instead of returned to the system."""

import ctypes
import platform

MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2  # parameters of mallopt, from malloc.h


def keep_freed_memory() -> bool:
    """Make the C library retain freed memory for the process; True where that worked.

    glibc maps every large tensor anew and gives it back when it is freed, and the kernel fills
    each page with zeros again on first touch: a third of the time of a step with GAL of five Conv4
    in float32 on two cores. Kept memory is reused as it is. The process does not shrink again, so a
    program decides on it (divtrain's command line does), never an import. Without glibc it does
    nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 64 * 2**20}  # -1: never give back
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
