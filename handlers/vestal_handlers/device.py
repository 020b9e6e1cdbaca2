"""The cores, the device and the files of this worker."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from vestal_handlers.cores import cores

WORKERS_VARIABLE = "VESTAL_WORKERS_FILE"
"""Names a JSON file with the number of workers by model and version; `vestal serve` writes it."""
logger = logging.getLogger(__name__)


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


def share_of_cores(workers: int) -> int:
    """The number of CPU threads of one worker; all workers share the cores."""
    return max(1, int(cores() / workers))


def explain_threads(threads: int, workers: int) -> str:
    """A sentence for the log about the CPU threads of a worker."""
    found = cores()
    text = f"{threads} of {found:g} cores for this worker, of {workers}"
    if threads * workers > max(found, 1):
        text += f"; {threads * workers} threads take turns on the cores"
    return text


def count_workers(config: dict[str, Any], model: str, version: str) -> int:
    """The largest number of workers: the server's, as serving.yaml may set another than the config.

    Args:
        config: model-config.yaml.
    """
    file = os.environ.get(WORKERS_VARIABLE)
    if file:
        try:
            return max(1, int(json.loads(Path(file).read_text("utf-8"))[model][version]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Models that are registered at TorchServe's own API are not in it.
            logger.info("%s %s: not in %s (%s)", model, version, file, error)
    return int(config.get("maxWorkers") or config.get("minWorkers") or 1)


def response_timeout(config: dict[str, Any]) -> float:
    """The time in seconds after which TorchServe kills a worker that has not responded."""
    return float(config.get("responseTimeout") or 120)  # its default_response_timeout


def device_of(gpu_id: Any) -> torch.device:
    """The device that TorchServe assigned to this worker."""
    # On a CPU server gpu_id is None or -1.
    if gpu_id is not None and int(gpu_id) >= 0 and torch.cuda.is_available():
        return torch.device("cuda", int(gpu_id))
    return torch.device("cpu")
