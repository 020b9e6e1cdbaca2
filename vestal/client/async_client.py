"""The asynchronous client: the methods, arguments and errors of `Client`, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from vestal.client import inference, lifecycle, management, readiness, renewal, verifying
from vestal.client.base import BaseClient
from vestal.client.bulk import BulkJob, Progress, check_concurrency
from vestal.client.deadline import DEFAULT, Timeout
from vestal.client.errors import ClientError
from vestal.client.flow import Flow
from vestal.client.inference import InferenceCall
from vestal.client.registering import UNDO_SECONDS, Registration

if TYPE_CHECKING:
    from vestal.client.async_transport import AsyncTransport
    from vestal.client.descriptions import ModelDescription, ModelInfo
    from vestal.client.metrics import ServerMetrics
    from vestal.client.prediction import Prediction
    from vestal.mar.sample import Sample

T = TypeVar("T")


class AsyncClient(BaseClient):
    """`Client` for asyncio: its methods are coroutines; use it with `async with`.

    Needs httpx: `pip install 'vestal[async]'`. Takes the arguments of `Client`; `transport` is an
    httpx transport. Each event loop has its own connections: call `close` in each of them.
    Cancelling a call ends it at once. A thread reads files and encodes images and arrays.
    """

    _transport: AsyncTransport

    def _open(self) -> None:
        # Imports httpx and asyncio, which `Client` does not need.
        from vestal.client.async_transport import AsyncTransport

        self._transport = AsyncTransport(self._addresses.known(), self._proxies, self._options)

    async def _run(
        self, flow: Callable[..., Flow[T]], timeout: Timeout, *served: str | None, **options: Any
    ) -> T:
        context = self._begin(timeout, flow.__name__, *served)
        return await self._transport.run(flow(context, *served, **options), context)

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
        call = InferenceCall("predict", model, version, correlation_id, traceparent)
        return await self._infer(call, timeout, input)

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
        call = InferenceCall("predict", model, version, correlation_id, traceparent)
        await run_bulk(job, partial(self._infer, call, timeout))
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
        call = InferenceCall("predict", model, version, correlation_id, traceparent)
        return async_prediction_stream(source, limit, partial(self._infer, call, timeout))

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
        call = InferenceCall("explain", model, version, correlation_id, traceparent)
        return await self._infer(call, timeout, input)

    async def _infer(self, call: InferenceCall, timeout: Timeout, value: Any) -> Prediction:
        context = self._begin(timeout, call.operation, call.model, call.version, call.traceparent)
        return await self._transport.run(inference.infer(context, call, value), context)

    async def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: Timeout = DEFAULT
    ) -> bool:
        """Same as `Client.ready`."""
        return await self._run(readiness.ready, timeout, model, version)

    async def wait_ready(
        self, model: str, version: str | None = None, *, timeout: Timeout = DEFAULT
    ) -> ModelDescription:
        """Same as `Client.wait_ready`."""
        return await self._run(readiness.wait_ready, timeout, model, version)

    async def models(self, *, timeout: Timeout = DEFAULT) -> list[ModelInfo]:
        """Same as `Client.models`."""
        return await self._run(management.models, timeout)

    async def versions(self, model: str, *, timeout: Timeout = DEFAULT) -> list[ModelDescription]:
        """Same as `Client.versions`."""
        return await self._run(management.versions, timeout, model)

    async def describe(
        self,
        model: str,
        version: str | None = None,
        *,
        customized: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> ModelDescription:
        """Same as `Client.describe`."""
        return await self._run(management.describe, timeout, model, version, customized=customized)

    async def register(
        self,
        archive: str,
        *,
        model: str | None = None,
        workers: int = 1,
        wait: bool = True,
        timeout: Timeout = DEFAULT,
    ) -> ModelInfo:
        """Same as `Client.register`."""
        context = self._begin(timeout, "register")
        registration = Registration(context, archive, model, workers, wait=wait)
        try:
            return await self._transport.run(registration.flow(), context)
        except GeneratorExit:  # the event loop runs this coroutine no more
            raise
        except BaseException as error:  # a cancelled task too
            undoing = self._begin(UNDO_SECONDS, "unregister")
            await self._transport.run_shielded(registration.undo(undoing, error), undoing)
            raise

    async def verify(
        self,
        model: str,
        version: str | None = None,
        *,
        sample: Sample | None = None,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Same as `Client.verify`."""
        await self._run(verifying.verify, timeout, model, version, sample=sample)

    async def scale(
        self,
        model: str,
        workers: int,
        version: str | None = None,
        *,
        wait: bool = True,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Same as `Client.scale`."""
        await self._run(lifecycle.scale, timeout, model, version, workers=workers, wait=wait)

    async def set_default(self, model: str, version: str, *, timeout: Timeout = DEFAULT) -> None:
        """Same as `Client.set_default`."""
        await self._run(management.set_default, timeout, model, version)

    async def unregister(
        self, model: str, version: str, *, drain: bool = True, timeout: Timeout = DEFAULT
    ) -> None:
        """Same as `Client.unregister`."""
        await self._run(lifecycle.unregister, timeout, model, version, drained=drain)

    async def metrics(self, *, timeout: Timeout = DEFAULT) -> ServerMetrics:
        """Same as `Client.metrics`."""
        from vestal.client.metrics import ServerMetrics

        ServerMetrics.check_installed()
        return ServerMetrics.parse(await self.metrics_text(timeout=timeout))

    async def metrics_text(self, *, timeout: Timeout = DEFAULT) -> str:
        """Same as `Client.metrics_text`."""
        return await self._run(management.metrics, timeout)

    async def renew_keys(self, *, timeout: Timeout = DEFAULT) -> None:
        """Same as `Client.renew_keys`."""
        await self._run(renewal.renew_keys, timeout)

    async def close(self) -> None:
        """Same as `Client.close`."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
