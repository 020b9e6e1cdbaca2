"""The CPU threads of a worker: its share of the cores. The server imports this without torch."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from vestal_handlers.cores import cores

WORKERS_VARIABLE = "VESTAL_WORKERS_FILE"
"""Names a JSON file with the number of workers by model and version; `vestal serve` writes it."""
logger = logging.getLogger(__name__)


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
