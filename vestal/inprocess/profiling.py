"""Profile a batch by operator, with torch's profiler."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.files.storage import atomic_write
from vestal.inprocess.loaded_archive import LoadedArchive

TOP = 10


@dataclass(frozen=True)
class Operator:
    """Times in seconds, summed over all calls; `own` excludes the operators that it called."""

    name: str
    calls: int
    own: float
    total: float


def profile(
    loaded: LoadedArchive, batch: Callable[[], Any], trace: Path, top: int = TOP
) -> list[Operator]:
    """Run a batch once under torch's profiler.

    Args:
        batch: sends requests to the archive; it should have run before, because the first run is
            slower.
        trace: file for the trace, which chrome://tracing and Perfetto show; the handler's steps
            are `decode`, `forward` and `encode` in it.

    Returns:
        The operators with the longest own time, the longest first.

    Raises:
        VestalError: the trace cannot be written.
    """
    import torch
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as torch_profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with loaded.marked(record_function), torch_profile(activities=activities) as profiler:
        batch()
    try:
        trace.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(trace) as fresh:
            profiler.export_chrome_trace(str(fresh))
            _check_whole(fresh)
    except (OSError, RuntimeError) as error:
        raise VestalError(f"the trace {trace} cannot be written: {error}") from None
    found = [
        Operator(
            event.key,
            event.count,
            (event.self_cpu_time_total + event.self_device_time_total) / 1e6,
            (event.cpu_time_total + event.device_time_total) / 1e6,
        )
        for event in profiler.key_averages()
    ]
    return sorted(found, key=lambda operator: -operator.own)[:top]


def _check_whole(trace: Path) -> None:
    """Raise OSError if the trace is incomplete; the profiler only logs that error."""
    if trace.exists() and not trace.read_bytes()[-64:].rstrip().endswith(b"}"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(trace.parent))
