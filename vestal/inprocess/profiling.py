"""Where a handler's time goes, by operator: torch's own profiler around a batch."""

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
    """Times in seconds: `own` without the operators that it called, of all its calls."""

    name: str
    calls: int
    own: float
    total: float


def profile(
    loaded: LoadedArchive, batch: Callable[[], Any], trace: Path, top: int = TOP
) -> list[Operator]:
    """Runs the batch once under torch's profiler.

    Args:
        batch: asks the archive; it should have run before, as a first time is another matter.
        trace: gets the trace for chrome://tracing or Perfetto, where the handler's steps stand as
            `decode`, `forward` and `encode`.

    Returns:
        The operators that took most time themselves, the longest first.

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
    """Raises OSError where the profiler, which only logs it, could not write all of the trace."""
    if trace.exists() and not trace.read_bytes()[-64:].rstrip().endswith(b"}"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(trace.parent))
