"""The C library's malloc keeps freed memory for the next batch.

By default, glibc returns blocks to the kernel as soon as some MB are free. The activations of each
forward pass then come from the kernel again, page by page: the eager ResNet18 was 1.2 times slower
in batches of 8 (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import os

# https://www.man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
KEPT_BYTES = 96 << 20  # enough for ResNet18 in batches of 8
_LARGEST_BLOCK_BYTES = 32 << 20
"""A larger block, such as an image of 50 megapixels, comes from the kernel each time, as always."""


def keep_freed_memory() -> bool:
    """Set malloc's thresholds, unless the environment has; return whether they were set."""
    if any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt is None:
        return False
    blocks = mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)
    return bool(blocks and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
