"""Many inputs for asyncio: the loops of `predict_many` and `iter_predictions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from vestal.client.bulk import BulkJob, input_iterator
from vestal.client.errors import ClientError

if TYPE_CHECKING:
    from vestal.client.prediction import Prediction

Predict = Callable[[Any], "Awaitable[Prediction]"]


async def run_bulk(job: BulkJob, predict: Predict) -> None:
    """Send every input of the job, at most `job.concurrency` at a time."""

    async def work() -> None:
        while (item := job.take()) is not None:
            position, value = item
            job.put(position, await _result(predict, value))

    workers = [asyncio.create_task(work()) for _ in range(job.concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        job.stop()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def async_input_iterator(inputs: Any) -> AsyncIterator[Any]:
    """Iterate over a synchronous or asynchronous iterable; raises UsageError for one input."""
    if hasattr(inputs, "__aiter__"):
        found: AsyncIterator[Any] = aiter(inputs)
        return found
    values = input_iterator(inputs)

    async def iterate() -> AsyncIterator[Any]:
        for value in values:
            yield value

    return iterate()


async def async_prediction_stream(
    inputs: AsyncIterator[Any], concurrency: int, predict: Predict
) -> AsyncIterator[Prediction | ClientError]:
    """Yield the results in order; a task reads `inputs`, at most `concurrency` ahead."""
    results: asyncio.Queue[asyncio.Task[Prediction | ClientError] | None] = asyncio.Queue()
    free_slots = asyncio.Semaphore(concurrency)
    pending: set[asyncio.Task[Prediction | ClientError]] = set()

    async def read() -> None:
        try:
            await free_slots.acquire()
            async for value in inputs:
                task = asyncio.create_task(_result(predict, value))
                pending.add(task)
                results.put_nowait(task)
                await free_slots.acquire()
        finally:
            results.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await results.get()) is not None:
            yield await task
            pending.discard(task)
            free_slots.release()
        await reading  # raises the error of `inputs`
    finally:
        unfinished = [reading, *pending]
        for each in unfinished:
            each.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _result(predict: Predict, value: Any) -> Prediction | ClientError:
    try:
        return await predict(value)
    except ClientError as error:
        return error
