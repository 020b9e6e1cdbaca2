"""Many inputs: `BulkJob` for `predict_many`, `prediction_stream` for `iter_predictions`.

predict_many      inputs -> worker threads (or tasks) -> results by position -> list
iter_predictions  inputs -> reader -> one thread (or task) per input -> queue -> iterator
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sized
from functools import partial
from threading import Event, Lock, Semaphore
from typing import TYPE_CHECKING, Any

from vestal.client.arrays import comes_from, records, type_name
from vestal.client.errors import ClientError
from vestal.client.flow import BlockingIO
from vestal.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vestal.client.prediction import Prediction

Predict = Callable[[Any], "Prediction"]
Progress = Callable[[int, int | None], object]
"""Called with the number of results so far and the number of inputs (None: unknown)."""
_SINGLE_INPUTS = (str, bytes, bytearray, memoryview, dict, os.PathLike)


class BulkJob:
    """The inputs and results of one `predict_many`; thread-safe."""

    def __init__(self, inputs: Any, concurrency: object, progress: Progress | None) -> None:
        limit = check_concurrency(concurrency)
        self._source = enumerate(input_iterator(inputs))
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._results: dict[int, Prediction | ClientError] = {}
        self._progress = progress
        self._taking, self._putting = Lock(), Lock()
        self._stopped = False
        self.concurrency = limit if self._total is None else min(limit, self._total)

    def take(self) -> tuple[int, Any] | None:
        """Return the next input and its position; None at the end, or after `stop`."""
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


def run_bulk(job: BulkJob, predict: Predict) -> None:
    """Send every input of the job, at most `job.concurrency` at a time."""
    from concurrent.futures import as_completed

    def work() -> None:
        while (item := job.take()) is not None:
            position, value = item
            job.put(position, _result(predict, value))

    # Daemon threads: Ctrl-C ends the call, and the process, without waiting for them.
    workers = [BlockingIO(work, may_hang=True).start() for _ in range(job.concurrency)]
    try:
        for worker in as_completed(workers):
            worker.result()
    finally:
        job.stop()


def _result(predict: Predict, value: Any) -> Prediction | ClientError:
    try:
        return predict(value)
    except ClientError as error:
        return error


def prediction_stream(
    inputs: Iterator[Any], concurrency: int, predict: Predict
) -> Iterator[Prediction | ClientError]:
    """Yield the results in order; a thread reads `inputs`, at most `concurrency` ahead."""
    from queue import SimpleQueue

    results: SimpleQueue[Future[Prediction | ClientError] | None] = SimpleQueue()
    free_slots, stopped = Semaphore(concurrency), Event()

    def read() -> None:
        try:
            free_slots.acquire()
            for value in inputs:
                if stopped.is_set():
                    return
                work = partial(_result, predict, value)
                results.put(BlockingIO(work, may_hang=True).start())
                free_slots.acquire()
                if stopped.is_set():
                    return
        finally:
            results.put(None)

    reading = BlockingIO(read, may_hang=True).start()
    try:
        while (result := results.get()) is not None:
            yield result.result()
            free_slots.release()
        reading.result()  # raises the error of `inputs`
    finally:
        stopped.set()
        free_slots.release()


def check_concurrency(concurrency: object) -> int:
    """Raises UsageError unless it is a whole number of 1 or more."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise UsageError(f"concurrency is {concurrency!r}: expected a whole number of 1 or more")
    return concurrency


def input_iterator(inputs: Any) -> Iterator[Any]:
    """Iterate over several inputs, the rows of a pandas table; raises UsageError for one input."""
    if comes_from(inputs, "pandas") and hasattr(inputs, "columns"):
        inputs = records(inputs)  # iterating a table gives its column names
    refused = UsageError(f"inputs is one {type_name(inputs)}: expected a list of inputs")
    if isinstance(inputs, _SINGLE_INPUTS) or hasattr(inputs, "read"):
        raise refused
    try:
        return iter(inputs)
    except TypeError:
        raise refused from None
