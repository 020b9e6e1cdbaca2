"""What this worker has of its machine: cores, a device, files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch


def sha256_of(artifact: Path) -> str | None:
    """None for what is no file: an artifact may be a folder."""
    if not artifact.is_file():
        return None
    with artifact.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def share_of_cores(config: dict[str, Any]) -> int:
    """CPU threads of one worker, where all workers share the cores."""
    workers = config.get("maxWorkers") or config.get("minWorkers") or 1
    return max(1, len(os.sched_getaffinity(0)) // int(workers))


def device_of(gpu_id: Any) -> torch.device:
    """The device that TorchServe gave this worker."""
    # On a CPU server gpu_id is None or -1.
    if gpu_id is not None and int(gpu_id) >= 0 and torch.cuda.is_available():
        return torch.device("cuda", int(gpu_id))
    return torch.device("cpu")
