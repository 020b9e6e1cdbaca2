"""Memory that one batch has freed is there for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks as in a forward pass: the largest are below the threshold, and all are freed at the end.
FAULTS = """
import ctypes, resource, sys
from vestal_handlers.malloc import keep_freed_memory

print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def batch():
    blocks = [ctypes.c_void_p(libc.malloc(30 << 20)) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, 30 << 20)
    for block in blocks:
        libc.free(block)

batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LEAST = 5 * 3 * 15
"""Page faults of 15 blocks of 30 MB, with pages of at most 2 MB."""


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}, False),
    ],
)
def test_memory_is_kept_unless_the_environment_says_otherwise(monkeypatch, variables, kept):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    was_set, faults = done.stdout.split()
    assert was_set == str(kept)
    assert (int(faults) < LEAST) == kept
