"""The blocking client, and the way of a call through the package.

Client.predict                       AsyncClient.predict
    └─ inference.infer               the same flow: a generator of steps
        ├─ encoding.encode           input -> body and content type
        ├─ retry.Attempts.run        until success, a final error or the deadline
        │   ├─ renewal               token of the attempt
        │   ├─ hedging               second copies of a request that may be lost
        │   ├─ HTTPRequest           a step: the transport sends it
        │   ├─ classification        success, retry or final?
        │   └─ backoff, waiting_calls, suspect_gate, reachability
        └─ prediction                response -> Prediction
    transport.Transport.run          carries out the steps in the calling thread
management, readiness, draining, lifecycle and registering are flows as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from vestal.client import inference, lifecycle, management, readiness
from vestal.client.base import BaseClient
from vestal.client.bulk import (
    BulkJob,
    Progress,
    check_concurrency,
    input_iterator,
    prediction_stream,
    run_bulk,
)
from vestal.client.deadline import DEFAULT, Timeout
from vestal.client.errors import ClientError
from vestal.client.inference import InferenceCall
from vestal.client.registering import UNDO_SECONDS, Registration
from vestal.client.transport import Transport

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelDescription, ModelInfo
    from vestal.client.metrics import ServerMetrics
    from vestal.client.prediction import Prediction


class Client(BaseClient):
    """Calls models on a TorchServe, and manages them.

    `url`, `management`, `metrics`: base addresses such as "http://127.0.0.1:8080". Without any, the
    client reads the ready file of `vestal serve` in the current folder (`.vestal/ready.json`).
    `token`, `key_file`: a token, or TorchServe's key_file.json, which is read again when it changes
    and renewed before it expires if there is a management address. Default: VESTAL_TOKEN, then the
    key file that the ready file names.

    `timeout`: seconds for each call in total: connecting, retries, pauses, sending and reading.
    None: no deadline. A call's own `timeout` replaces it.

    `retries`: most retries of a request, second copies included; by default the deadline is the
    only limit. A renewed token costs no retry.

    `hedge`: send a second copy of a prediction that the server may have lost; the first response
    counts. False for models that must never receive an input twice at the same time.

    `headers`: sent with every request. `verify`, `cert`: as in requests: False or a CA bundle; a
    client certificate as a PEM file or (certificate, key). `transport`: a requests adapter that
    sends the requests instead of Vestal's own connections, for tests; its timeout counts for each
    of its operations, and no second copies are sent.

    Thread-safe, with pooled connections; a child process gets its own after a fork. A pickled
    client is its configuration, including its token. Proxies and CA bundles are read from the
    environment once, as requests does; loopback and ready-file addresses are called without a
    proxy. `AsyncClient` is the same for asyncio, with an httpx transport.

    Every method raises ClientError (`vestal.client.errors`), or UsageError for wrong arguments.
    """

    _transport: Transport

    def _open(self) -> None:
        self._transport = Transport(self._addresses.known(), self._proxies, self._options)

    def predict(
        self,
        model: str,
        input: Any,  # noqa: A002
        *,
        version: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Prediction:
        """Send one input to a model and return its prediction.

        `input`: a Path (a file), a str (text), bytes, a file object, a PIL image or an image as
        uint8 array or tensor (sent as PNG), any other numpy array or torch tensor (JSON
        `{"data": ...}`), a pandas row, a dict, list or number (JSON). `version`: by default the
        model's default version. `correlation_id`, `traceparent`: generated unless given.
        """
        asked = InferenceCall("predict", model, version, correlation_id, traceparent)
        return self._infer(asked, input, timeout)

    def predict_many(
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
        """Send many inputs, at most `concurrency` at a time; return the results in order.

        The result of an input that fails is its error. `timeout` is for each input. `inputs` is
        read on demand, so a generator need not fit into memory; a pandas table is read row by row.
        `progress(done, total)` is called after each result, in one thread at a time; `total` is
        None for a generator. Ctrl-C, and errors that `inputs` or `progress` raise, end the call
        at once, without waiting for requests in flight.
        """
        job = BulkJob(inputs, concurrency, progress)
        ids = {"correlation_id": correlation_id, "traceparent": traceparent}
        run_bulk(job, partial(self.predict, model, version=version, timeout=timeout, **ids))
        return job.results()

    def iter_predictions(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        version: str | None = None,
        concurrency: int = 8,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Iterator[Prediction | ClientError]:
        """Yield the results of a stream of inputs, in order.

        A thread reads `inputs`, at most `concurrency` ahead of the results taken. An input that
        fails yields its error; an error that `inputs` raises is raised after the results before it.
        """
        ids = {"correlation_id": correlation_id, "traceparent": traceparent}
        predict = partial(self.predict, model, version=version, timeout=timeout, **ids)
        return prediction_stream(input_iterator(inputs), check_concurrency(concurrency), predict)

    def explain(
        self,
        model: str,
        input: Any,  # noqa: A002
        *,
        version: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Prediction:
        """Return a prediction with the contribution of each part of the input.

        Takes the arguments of `predict`.
        """
        asked = InferenceCall("explain", model, version, correlation_id, traceparent)
        return self._infer(asked, input, timeout)

    def _infer(self, asked: InferenceCall, value: Any, timeout: Timeout) -> Prediction:
        context = self._begin(
            timeout, asked.operation, asked.model, asked.version, traceparent=asked.traceparent
        )
        return self._transport.run(inference.infer(context, asked, value), context)

    def ready(
        self,
        model: str | None = None,
        version: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> bool:
        """Whether every worker of a version is READY and one responds; by default of all models.

        False if there is no server, or no response in time. Needs the management address.
        """
        context = self._begin(timeout, "ready", model, version)
        return self._transport.run(readiness.ready(context, model, version), context)

    def wait_ready(
        self, model: str, version: str | None = None, *, timeout: Timeout = DEFAULT
    ) -> ModelDescription:
        """Wait until a version is ready, even if the server or the model is not there yet.

        Raises NotReady if its workers keep dying while they load it, DeadlineExceeded.
        """
        context = self._begin(timeout, "wait_ready", model, version)
        return self._transport.run(readiness.wait_ready(context, model, version), context)

    def models(self, *, timeout: Timeout = DEFAULT) -> list[ModelInfo]:
        """List every served version of every model."""
        context = self._begin(timeout, "models", None)
        return self._transport.run(management.models(context), context)

    def versions(self, model: str, *, timeout: Timeout = DEFAULT) -> list[ModelDescription]:
        """Describe every served version of one model. Raises NotFound."""
        context = self._begin(timeout, "versions", model)
        return self._transport.run(management.versions(context, model), context)

    def describe(
        self,
        model: str,
        version: str | None = None,
        *,
        customized: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> ModelDescription:
        """Describe one version: workers, queue, batching. Raises NotFound.

        `customized`: include the handler's own description, which waits for a free worker.
        """
        context = self._begin(timeout, "describe", model, version)
        flow = management.describe(context, model, version, customized=customized)
        return self._transport.run(flow, context)

    def register(
        self,
        archive: str,
        *,
        model: str | None = None,
        workers: int = 1,
        timeout: Timeout = DEFAULT,
    ) -> ModelInfo:
        """Register an archive of the server's model store and verify that it works.

        Returns when every worker is READY and the version has predicted the sample in its archive
        as it was packed. If it does not, or the call ends early (deadline, Ctrl-C), the version is
        unregistered again.

        `archive`: a file name such as "mnist-1.0.mar". `model`: by default the archive's own name.
        `workers`: used unless the archive's model-config.yaml sets it. A model's first version is
        its default version. Raises NotFound (no such archive), Conflict (already registered),
        NotReady (does not load or fails its sample), DeadlineExceeded, NoAddress (the sample needs
        the inference address).
        """
        context = self._begin(timeout, "register", None)
        registration = Registration(context, archive, model, workers)
        try:
            return self._transport.run(registration.flow(), context)
        except BaseException as error:  # Ctrl-C too
            undoing = self._begin(UNDO_SECONDS, "unregister", None)
            self._transport.run(registration.undo(undoing, error), undoing)
            raise

    def scale(
        self,
        model: str,
        workers: int,
        version: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Set a version's number of workers and wait until they are READY.

        Scaling down kills workers at once, and their requests fail.
        """
        context = self._begin(timeout, "scale", model, version)
        self._transport.run(lifecycle.scale(context, model, workers, version), context)

    def set_default(self, model: str, version: str, *, timeout: Timeout = DEFAULT) -> None:
        """Make a version the default; no request is lost."""
        context = self._begin(timeout, "set_default", model, version)
        self._transport.run(management.set_default(context, model, version), context)

    def unregister(
        self, model: str, version: str, *, drain: bool = True, timeout: Timeout = DEFAULT
    ) -> None:
        """Remove a version once it is idle: an empty queue, and no request in a worker.

        `drain=False` removes it at once, and its requests fail. Raises Conflict for the default
        version while others are served, DeadlineExceeded if it does not become idle (it stays
        registered), NotFound.
        """
        context = self._begin(timeout, "unregister", model, version)
        self._transport.run(lifecycle.unregister(context, model, version, drained=drain), context)

    def metrics(self, *, timeout: Timeout = DEFAULT) -> ServerMetrics:
        """Return the server's Prometheus metrics; needs prometheus_client (`vestal[metrics]`)."""
        from vestal.client.metrics import ServerMetrics

        ServerMetrics.check_installed()
        return ServerMetrics.parse(self.metrics_text(timeout=timeout))

    def metrics_text(self, *, timeout: Timeout = DEFAULT) -> str:
        """Return the server's Prometheus page as text."""
        context = self._begin(timeout, "metrics", None)
        return self._transport.run(management.metrics_page(context), context)

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
