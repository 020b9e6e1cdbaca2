"""Run a test with both clients; `Blocking` wraps the asynchronous one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

import pytest

from vestal import AsyncClient, Client, ClientError, Prediction


class Blocking:
    """An AsyncClient in an event loop of its own; each call waits for its coroutine."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.asynchronous = AsyncClient(*args, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.asynchronous, name)

        def call(*args: Any, **options: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(method(*args, **options), self._loop).result()

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(self.asynchronous.close())

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        async def end() -> None:
            await last
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()
            await asyncio.sleep(0.01)  # the loop closes connections in its next rounds

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __repr__(self) -> str:
        return repr(self.asynchronous)


def predictions(results: Sequence[Prediction | ClientError]) -> list[Prediction]:
    """Return the results; fails if one of them is an error."""
    assert [result for result in results if isinstance(result, ClientError)] == []
    return [result for result in results if isinstance(result, Prediction)]


both = pytest.mark.parametrize("kind", [Client, Blocking], ids=["sync", "async"])
