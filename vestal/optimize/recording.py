"""Record the inputs of a model for real requests: its handler decodes, its engine is watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vestal.errors import VestalError
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.loaded_archive import load_staged
from vestal_handlers.engines.tensors import row_count

SINGLE = ""  # the name of a model's only input, which a handler passes without a name


class _Recorder:
    """Passes batches on to an engine, and keeps a copy of each row."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.rows: list[dict[str, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, batch: Any) -> Any:
        named = {SINGLE: batch} if isinstance(batch, Tensor) else batch
        for row in range(row_count(batch)):
            kept = {key: each[row : row + 1].cpu().numpy().copy() for key, each in named.items()}
            self.rows.append(kept)
        return self._engine(batch)


def record(
    folder: Path, name: str, requests: Sequence[RawRequest], frontend: Frontend
) -> list[dict[str, np.ndarray]]:
    """Send requests to the handler of a staged archive; return the inputs of its model.

    Returns:
        The arrays [1, ...] of each row by the names of the model's inputs.

    Raises:
        VestalError: the handler does not load, refuses every request, or is not a Vestal handler.
    """
    with load_staged(folder, name, batch_size=1) as loaded:
        engine = getattr(loaded.handler, "engine", None)
        if not callable(engine) or not hasattr(engine, "describe"):
            raise VestalError(
                f"{name} has a handler without an engine, so its weights cannot be quantized. Use "
                "a handler that extends vestal_handlers.base.BatchHandler"
            )
        recorder = loaded.handler.engine = _Recorder(engine)
        refused = ""
        for request in requests:
            (response,), _ = frontend.predict_batch(loaded, [request])
            if response.status != 200:
                refused = refused or f"{request.name}: {response.body.decode('utf-8', 'replace')}"
    if not recorder.rows:
        raise VestalError(f"{name} refuses every input for the calibration; the first: {refused}")
    return recorder.rows


def save(rows: Sequence[Mapping[str, np.ndarray]], file: Path) -> None:
    """Write recorded inputs, for `quantize.read_samples`."""
    arrays = {
        f"{number}/{name}": each for number, row in enumerate(rows) for name, each in row.items()
    }
    np.savez(file, **arrays)  # type: ignore[arg-type]
