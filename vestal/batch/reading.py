"""Reads the next batches' files while the handler computes.

In threads: reading releases the interpreter's lock, and no process is left when this one is killed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

from vestal.batch.inputs import Items, Read

AHEAD = 2  # batches per thread that are read before they are needed


@contextmanager
def reading(
    items: Items, todo: Sequence[int], batch_size: int, threads: int
) -> Iterator[Iterator[list[Read]]]:
    """The batches of the items `todo`, in order; the first ones are read at once.

    Args:
        threads: that read ahead; 0: a batch is read when it is needed.
    """
    batches = iter([todo[start : start + batch_size] for start in range(0, len(todo), batch_size)])

    def read(batch: Sequence[int]) -> list[Read]:
        return [items[index] for index in batch]

    if threads == 0 or not items.are_files:
        yield map(read, batches)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    ahead: deque[Future[list[Read]]] = deque()

    def submit(count: int) -> None:
        ahead.extend(pool.submit(read, batch) for batch in islice(batches, count))

    def results() -> Iterator[list[Read]]:
        while ahead:
            batch = ahead.popleft().result()
            submit(1)
            yield batch

    submit(AHEAD * threads)
    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
