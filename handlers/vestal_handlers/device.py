"""The device, the files and the time limit of this worker."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch


def sha256_of(artifact: Path) -> str:
    """The sha256 of a file, or of all files of a folder, of an index of shards, or of an .xml.

    For several files it is the sha256 of the output of `sha256sum` for them, sorted by name.
    """
    folder = artifact if artifact.is_dir() else artifact.parent
    if artifact.is_dir():
        files = [file for file in artifact.rglob("*") if file.is_file()]
    elif artifact.name.endswith(".index.json"):
        shards = json.loads(artifact.read_text("utf-8"))["weight_map"].values()
        files = [artifact, *(folder / name for name in set(shards))]
    elif artifact.suffix == ".xml":
        files = [artifact, artifact.with_suffix(".bin")]
    else:
        return _sha256(artifact)
    named = sorted((file.relative_to(folder).as_posix(), _sha256(file)) for file in files)
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in named).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def response_timeout(config: dict[str, Any]) -> float:
    """The time in seconds after which TorchServe kills a worker that has not responded."""
    return float(config.get("responseTimeout") or 120)  # its default_response_timeout


def device_of(gpu_id: Any) -> torch.device:
    """The device that TorchServe assigned to this worker."""
    # On a CPU server gpu_id is None or -1.
    if gpu_id is not None and int(gpu_id) >= 0 and torch.cuda.is_available():
        return torch.device("cuda", int(gpu_id))
    return torch.device("cpu")
