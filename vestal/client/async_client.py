"""The asynchronous client: the methods, arguments and errors of `Client`, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from vestal.client import inference, lifecycle, management, readiness
from vestal.client.base import BaseClient
from vestal.client.bulk import BulkJob, Progress, check_concurrency
from vestal.client.deadline import DEFAULT, Timeout
from vestal.client.errors import ClientError
from vestal.client.inference import InferenceCall
from vestal.client.registering import UNDO_SECONDS, Registration

if TYPE_CHECKING:
    from vestal.client.async_transport import AsyncTransport
    from vestal.client.descriptions import ModelDescription, ModelInfo
    from vestal.client.metrics import ServerMetrics
    from vestal.client.prediction import Prediction


class AsyncClient(BaseClient):
    """`Client` for asyncio: its methods are coroutines; use it with `async with`.

    Needs httpx: `pip install 'vestal[async]'`. Takes the arguments of `Client`; `transport` is an
    httpx transport. Each event loop gets its own connections: call `close` in each of them.
    Cancelling a call ends it at once. A thread reads files and encodes images and arrays.
    """

    _transport: AsyncTransport

    def _open(self) -> None:
        # Imports httpx and asyncio, which `Client` does not need.
        from vestal.client.async_transport import AsyncTransport

        self._transport = AsyncTransport(self._addresses.known(), self._proxies, self._options)

    async def predict(
        self,
        model: str,
        input: Any,  # noqa: A002
        *,
        version: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Prediction:
        """Same as `Client.predict`."""
        asked = InferenceCall("predict", model, version, correlation_id, traceparent)
        return await self._infer(asked, input, timeout)

    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        version: str | None = None,
        concurrency: int = 8,
        progress: Progress | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> list[Prediction | ClientError]:
        """Same as `Client.predict_many`."""
        from vestal.client.async_bulk import run_bulk  # imports asyncio

        job = BulkJob(inputs, concurrency, progress)
        predict = partial(
            self.predict,
            model,
            version=version,
            correlation_id=correlation_id,
            traceparent=traceparent,
            timeout=timeout,
        )
        await run_bulk(job, predict)
        return job.results()

    def iter_predictions(
        self,
        model: str,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        version: str | None = None,
        concurrency: int = 8,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> AsyncIterator[Prediction | ClientError]:
        """Same as `Client.iter_predictions`, for `async for`; `inputs` may be asynchronous."""
        from vestal.client.async_bulk import async_input_iterator, async_prediction_stream

        source, limit = async_input_iterator(inputs), check_concurrency(concurrency)
        predict = partial(
            self.predict,
            model,
            version=version,
            correlation_id=correlation_id,
            traceparent=traceparent,
            timeout=timeout,
        )
        return async_prediction_stream(source, limit, predict)

    async def explain(
        self,
        model: str,
        input: Any,  # noqa: A002
        *,
        version: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Prediction:
        """Same as `Client.explain`."""
        asked = InferenceCall("explain", model, version, correlation_id, traceparent)
        return await self._infer(asked, input, timeout)

    async def _infer(self, asked: InferenceCall, value: Any, timeout: Timeout) -> Prediction:
        context = self._begin(
            timeout, asked.operation, asked.model, asked.version, traceparent=asked.traceparent
        )
        return await self._transport.run(inference.infer(context, asked, value), context)

    async def ready(
        self,
        model: str | None = None,
        version: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> bool:
        """Same as `Client.ready`."""
        context = self._begin(timeout, "ready", model, version)
        return await self._transport.run(readiness.ready(context, model, version), context)

    async def wait_ready(
        self, model: str, version: str | None = None, *, timeout: Timeout = DEFAULT
    ) -> ModelDescription:
        """Same as `Client.wait_ready`."""
        context = self._begin(timeout, "wait_ready", model, version)
        return await self._transport.run(readiness.wait_ready(context, model, version), context)

    async def models(self, *, timeout: Timeout = DEFAULT) -> list[ModelInfo]:
        """Same as `Client.models`."""
        context = self._begin(timeout, "models", None)
        return await self._transport.run(management.models(context), context)

    async def versions(self, model: str, *, timeout: Timeout = DEFAULT) -> list[ModelDescription]:
        """Same as `Client.versions`."""
        context = self._begin(timeout, "versions", model)
        return await self._transport.run(management.versions(context, model), context)

    async def describe(
        self,
        model: str,
        version: str | None = None,
        *,
        customized: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> ModelDescription:
        """Same as `Client.describe`."""
        context = self._begin(timeout, "describe", model, version)
        flow = management.describe(context, model, version, customized=customized)
        return await self._transport.run(flow, context)

    async def register(
        self,
        archive: str,
        *,
        model: str | None = None,
        workers: int = 1,
        timeout: Timeout = DEFAULT,
    ) -> ModelInfo:
        """Same as `Client.register`."""
        context = self._begin(timeout, "register", None)
        registration = Registration(context, archive, model, workers)
        try:
            return await self._transport.run(registration.flow(), context)
        except GeneratorExit:  # nothing can be awaited any more
            raise
        except BaseException as error:  # a cancelled task too
            undoing = self._begin(UNDO_SECONDS, "unregister", None)
            flow = registration.undo(undoing, error)
            await self._transport.run_shielded(flow, undoing)
            raise

    async def scale(
        self,
        model: str,
        workers: int,
        version: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Same as `Client.scale`."""
        context = self._begin(timeout, "scale", model, version)
        await self._transport.run(lifecycle.scale(context, model, workers, version), context)

    async def set_default(self, model: str, version: str, *, timeout: Timeout = DEFAULT) -> None:
        """Same as `Client.set_default`."""
        context = self._begin(timeout, "set_default", model, version)
        await self._transport.run(management.set_default(context, model, version), context)

    async def unregister(
        self, model: str, version: str, *, drain: bool = True, timeout: Timeout = DEFAULT
    ) -> None:
        """Same as `Client.unregister`."""
        context = self._begin(timeout, "unregister", model, version)
        await self._transport.run(
            lifecycle.unregister(context, model, version, drained=drain), context
        )

    async def metrics(self, *, timeout: Timeout = DEFAULT) -> ServerMetrics:
        """Same as `Client.metrics`."""
        from vestal.client.metrics import ServerMetrics

        ServerMetrics.check_installed()
        return ServerMetrics.parse(await self.metrics_text(timeout=timeout))

    async def metrics_text(self, *, timeout: Timeout = DEFAULT) -> str:
        """Same as `Client.metrics_text`."""
        context = self._begin(timeout, "metrics", None)
        return await self._transport.run(management.metrics_page(context), context)

    async def close(self) -> None:
        """Same as `Client.close`."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
