"""Measure the three steps of a batch, in Vestal's and in TorchServe's handlers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

# Methods of TorchServe's BaseHandler, and the names of the steps.
STEPS = {"preprocess": "decode", "inference": "forward", "postprocess": "encode"}


@dataclass(frozen=True)
class Times:
    """Seconds of one batch; None for a step that the handler does not have.

    `total` includes TorchServe's code around the handler.
    """

    total: float
    decode: float | None = None
    forward: float | None = None
    encode: float | None = None


class StepClock:
    """Time the steps of a handler by wrapping its methods."""

    def __init__(self, entry_point: Any) -> None:
        self._seconds: dict[str, float] = {}
        self.mark: Callable[[str], AbstractContextManager[Any]] = lambda _: nullcontext()
        handler = getattr(entry_point, "__self__", None)  # a function has no steps
        for method, step in STEPS.items():
            if callable(getattr(handler, method, None)):
                setattr(handler, method, self._timed(getattr(handler, method), step))

    def run(self, batch: Callable[[], Any]) -> tuple[Any, Times]:
        """Call `batch` once; return its result and the times."""
        self._seconds.clear()
        start = time.perf_counter()
        result = batch()
        return result, Times(time.perf_counter() - start, **self._seconds)

    def _timed(self, method: Callable[..., Any], step: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                with self.mark(step):
                    return method(*arguments, **named)
            finally:
                passed = time.perf_counter() - start
                self._seconds[step] = self._seconds.get(step, 0.0) + passed

        return timed
