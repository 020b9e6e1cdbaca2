"""Many inputs: read as the calls go on, their results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sized
from threading import Lock
from typing import TYPE_CHECKING, Any

from vestal.client.arrays import comes_from, records, type_name
from vestal.client.errors import ClientError
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.client.prediction import Prediction

Progress = Callable[[int, int | None], object]
"""Called with the number of results so far and that of all inputs (None: not known)."""
_ONE = (str, bytes, bytearray, memoryview, dict, os.PathLike)


class Many:
    """The inputs and results of one `predict_many`; thread-safe."""

    def __init__(self, inputs: Any, concurrency: object, progress: Progress | None) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise UsageError(f"concurrency is {concurrency!r}: expected a whole number from 1 on")
        if comes_from(inputs, "pandas") and hasattr(inputs, "columns"):
            inputs = records(inputs)  # itself it gives its columns' names
        self._source = enumerate(_iterator(inputs))
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._results: dict[int, Prediction | ClientError] = {}
        self._progress = progress
        self._taking, self._putting = Lock(), Lock()
        self._stopped = False
        self.concurrency = concurrency if self._total is None else min(concurrency, self._total)

    def take(self) -> tuple[int, Any] | None:
        """The next input and its position; None where there is none, or after `stop`."""
        with self._taking:
            return None if self._stopped else next(self._source, None)

    def put(self, position: int, result: Prediction | ClientError) -> None:
        with self._putting:
            self._results[position] = result
            if self._progress is not None and not self._stopped:
                self._progress(len(self._results), self._total)

    def stop(self) -> None:
        self._stopped = True

    def results(self) -> list[Prediction | ClientError]:
        return [self._results[position] for position in range(len(self._results))]


def _iterator(inputs: Any) -> Iterator[Any]:
    refused = UsageError(f"inputs is one {type_name(inputs)}: expected a list of inputs")
    if isinstance(inputs, _ONE) or hasattr(inputs, "read"):
        raise refused
    try:
        return iter(inputs)
    except TypeError:
        raise refused from None
