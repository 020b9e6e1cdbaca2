"""The blocking client: the rules of its siblings, carried out in the calling thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vestal.client import inference, lifecycle, management, readiness
from vestal.client.base import Base
from vestal.client.bulk import (
    BulkJob,
    Progress,
    check_concurrency,
    input_iterator,
    prediction_stream,
)
from vestal.client.deadline import DEFAULT, Timeout
from vestal.client.errors import ClientError
from vestal.client.inference import Asked
from vestal.client.registering import UNDO_SECONDS, Registration
from vestal.client.steps import Work
from vestal.client.transport import Transport

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelDescription, ModelInfo
    from vestal.client.metrics import Metrics
    from vestal.client.prediction import Prediction


class Client(Base):
    """Calls models on a TorchServe, and manages them.

    Without any address, the server is the one that `vestal serve` runs for the project in the
    current folder (`.vestal/ready.json`). `url`, `management`, `metrics` are base addresses such
    as "http://127.0.0.1:8080"; where one is given, the ready file is not looked at. The token
    comes from `token` or `key_file` (TorchServe's key_file.json, re-read when it changes, renewed
    before it expires where there is a management address), else from VESTAL_TOKEN, else from the
    ready file's key file.

    `timeout`: seconds for each call in total: connecting, retries, pauses, sending and reading.
    None: no deadline. A call's own `timeout` replaces it.

    `retries`: how often one request is sent again at most, second copies included; 0 turns
    retries off, None allows as many as the deadline. A renewed token costs no retry.

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

    Every method raises ClientError (see `vestal.client.errors` for the tree), and UsageError for
    an invalid argument. An address that is not http://host:port raises InvalidAddress, which is
    both.
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
        """Sends one input to a model, its default version unless one is said.

        `input`: a Path is a file; a str is text, whatever it looks like; bytes, a file object, a
        PIL image or an image as uint8 array or tensor (PNG), any other numpy array or torch tensor
        (JSON `{"data": ...}`), a pandas row, a dict, list or number (JSON). `correlation_id`,
        `traceparent`: sent as they are; made up where not given.
        """
        asked = Asked("predict", model, version, correlation_id, traceparent)
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
        """Sends many inputs, at most `concurrency` at a time; the results are in their order.

        An input that fails has its error in the list. `timeout` holds for each input by itself.
        `inputs` is read as the calls go on, so a generator need not fit into memory; a pandas
        table is its rows.
        `progress(done, total)` is called after each result, never twice at once; total is None for
        a generator. Ctrl-C, and whatever `inputs` or `progress` raise, end it at once: the requests
        that are on their way are no longer waited for.
        """
        from concurrent.futures import as_completed

        job = BulkJob(inputs, concurrency, progress)

        def work() -> None:
            while (item := job.take()) is not None:
                position, value = item
                try:
                    result: Prediction | ClientError = self.predict(
                        model,
                        value,
                        version=version,
                        correlation_id=correlation_id,
                        traceparent=traceparent,
                        timeout=timeout,
                    )
                except ClientError as error:
                    result = error
                job.put(position, result)

        # Threads that nothing waits for: Ctrl-C ends the call, and the process, at once.
        workers = [Work(work, may_hang=True).start() for _ in range(job.concurrency)]
        try:
            for worker in as_completed(workers):
                worker.result()
        finally:
            job.stop()
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
        """Yield the results of a stream of inputs in order, for streams of any length.

        At most `concurrency` inputs are read ahead of the results that were taken; a thread of
        this call reads them. An input that fails yields its error; an error of `inputs` itself is
        raised after the results before it. Other arguments: see `predict_many`.
        """
        source, limit = input_iterator(inputs), check_concurrency(concurrency)

        def predict(value: Any) -> Prediction | ClientError:
            try:
                return self.predict(
                    model,
                    value,
                    version=version,
                    correlation_id=correlation_id,
                    traceparent=traceparent,
                    timeout=timeout,
                )
            except ClientError as error:
                return error

        return prediction_stream(source, limit, predict)

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
        """A prediction together with what each part of the input added to it.

        Takes what `predict` takes.
        """
        asked = Asked("explain", model, version, correlation_id, traceparent)
        return self._infer(asked, input, timeout)

    def _infer(self, asked: Asked, value: Any, timeout: Timeout) -> Prediction:
        context = self._begin(
            timeout, asked.operation, asked.model, asked.version, traceparent=asked.traceparent
        )
        return self._transport.carry_out(inference.infer(context, asked, value), context)

    def ready(
        self,
        model: str | None = None,
        version: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> bool:
        """Is every worker of a version READY, and does one answer? Without a model: of all served.

        False too where there is no server, or no answer in time. It asks the management address.
        """
        context = self._begin(timeout, "ready", model, version)
        return self._transport.carry_out(readiness.ready(context, model, version), context)

    def wait_ready(
        self, model: str, version: str | None = None, *, timeout: Timeout = DEFAULT
    ) -> ModelDescription:
        """Waits until a version is ready, also for a server or a model that is not there yet.

        Raises NotReady where its workers keep dying while they load it, DeadlineExceeded.
        """
        context = self._begin(timeout, "wait_ready", model, version)
        return self._transport.carry_out(readiness.wait_ready(context, model, version), context)

    def models(self, *, timeout: Timeout = DEFAULT) -> list[ModelInfo]:
        """Every served version of every model."""
        context = self._begin(timeout, "models", None)
        return self._transport.carry_out(management.models(context), context)

    def versions(self, model: str, *, timeout: Timeout = DEFAULT) -> list[ModelDescription]:
        """Every served version of one model, as it runs. Raises NotFound."""
        context = self._begin(timeout, "versions", model)
        return self._transport.carry_out(management.versions(context, model), context)

    def describe(
        self,
        model: str,
        version: str | None = None,
        *,
        customized: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> ModelDescription:
        """One version as it runs: workers, queue, batching. Raises NotFound.

        `customized`: with what the handler says of itself, which waits for a free worker.
        """
        context = self._begin(timeout, "describe", model, version)
        steps = management.describe(context, model, version, customized=customized)
        return self._transport.carry_out(steps, context)

    def register(
        self,
        archive: str,
        *,
        model: str | None = None,
        workers: int = 1,
        timeout: Timeout = DEFAULT,
    ) -> ModelInfo:
        """Registers an archive of the server's store and verifies that it answers.

        Returns when every worker is READY and the version has answered the sample in its archive
        as it was packed. Where it does not, and where the call ends early (deadline, Ctrl-C), the
        version is unregistered again, so it never stays the default.

        `archive`: a file name such as "mnist-1.0.mar". `model`: another name than the archive's
        own. `workers`: how many, unless the archive's model-config.yaml says (it wins). The first
        version of a model is its default; later ones become it by `set_default`.
        Raises NotFound (no such archive), Conflict (that version is registered already), NotReady
        (it does not load, or does not answer its sample as packed), DeadlineExceeded, NoAddress (a
        sample is sent to the inference address).
        """
        context = self._begin(timeout, "register", None)
        registration = Registration(context, archive, model, workers)
        try:
            return self._transport.carry_out(registration.steps(), context)
        except BaseException as error:  # Ctrl-C too
            undoing = self._begin(UNDO_SECONDS, "unregister", None)
            self._transport.carry_out(registration.undo(undoing, error), undoing)
            raise

    def scale(
        self,
        model: str,
        workers: int,
        version: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Sets a version's number of workers and waits until so many are READY.

        Scaling down kills workers at once, with what they have in work.
        """
        context = self._begin(timeout, "scale", model, version)
        self._transport.carry_out(lifecycle.scale(context, model, workers, version), context)

    def set_default(self, model: str, version: str, *, timeout: Timeout = DEFAULT) -> None:
        """Makes a version the one that calls without a version get; loses no request."""
        context = self._begin(timeout, "set_default", model, version)
        self._transport.carry_out(management.set_default(context, model, version), context)

    def unregister(
        self, model: str, version: str, *, drain: bool = True, timeout: Timeout = DEFAULT
    ) -> None:
        """Removes a version, once it is idle: nothing queued, nothing in a worker.

        With `drain=False` it goes at once, and what it has in work is lost. Raises Conflict for
        the default version while others are served, DeadlineExceeded where it does not get idle
        (then it is still registered), NotFound.
        """
        context = self._begin(timeout, "unregister", model, version)
        self._transport.carry_out(
            lifecycle.unregister(context, model, version, drained=drain), context
        )

    def metrics(self, *, timeout: Timeout = DEFAULT) -> Metrics:
        """The server's Prometheus page as numbers; needs prometheus_client, `vestal[metrics]`."""
        from vestal.client.metrics import Metrics

        Metrics.check_installed()
        return Metrics.parse(self.metrics_text(timeout=timeout))

    def metrics_text(self, *, timeout: Timeout = DEFAULT) -> str:
        """The server's Prometheus page, as text."""
        context = self._begin(timeout, "metrics", None)
        return self._transport.carry_out(management.metrics_page(context), context)

    def close(self) -> None:
        """Closes the connections; a second call does nothing."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
