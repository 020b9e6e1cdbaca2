"""The blocking client: the rules of its siblings, carried out in the calling thread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event, Lock
from types import TracebackType
from typing import Any, TypeVar

from vestal.client import inference, lifecycle, management, readiness
from vestal.client.answers import Answer
from vestal.client.calls import Call
from vestal.client.deadline import DEFAULT, Deadline, Timeout, UseClientTimeout, check
from vestal.client.descriptions import ModelDescription, ModelInfo
from vestal.client.errors import ClientError
from vestal.client.retry import Context
from vestal.client.settings import resolve
from vestal.client.steps import Steps
from vestal.client.transport import Transport, carry_out
from vestal.errors import UsageError

T = TypeVar("T")


class Client:
    """Calls models on a TorchServe, and manages them.

    Without any address, the server is the one that `vestal serve` runs for the project in the
    current folder (`.vestal/ready.json`). `url`, `management`, `metrics` are base addresses such
    as "http://127.0.0.1:8080"; where one is given, the ready file is not looked at. The token
    comes from `token` or `key_file` (TorchServe's key_file.json, re-read when it changes), else
    from VESTAL_TOKEN, else from the ready file's key file.

    `timeout`: seconds that every call has in total, unless it says otherwise: connecting, retries,
    pauses, sending and reading. None: no deadline.

    Thread-safe, with pooled connections; a child process after a fork gets its own. Proxies and CA
    bundles are read from the environment once, as requests does.

    Every method raises ClientError (see `vestal.client.errors` for the tree), and UsageError for
    an argument that cannot be.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        management: str | None = None,
        metrics: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        self._timeout = check(timeout)
        self._addresses, self._tokens = resolve(url, management, metrics, key_file, token)
        self._transport = Transport(self._addresses.known())

    def predict(
        self,
        model: str,
        input: Any,  # noqa: A002
        *,
        version: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Answer:
        """Sends one input to a model, its default version unless one is said.

        `input`: a Path, or a str that ends in an image's suffix, is a file; any other str is text;
        bytes, a file object, a PIL image (sent as PNG), a numpy array or torch tensor (sent as
        JSON `{"data": ...}`), a dict, list or number (JSON).
        """
        context = self._context(timeout)
        return self._run(inference.predict(context, model, input, version), context)

    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        version: str | None = None,
        concurrency: int = 8,
        timeout: Timeout = DEFAULT,
    ) -> list[Answer | ClientError]:
        """Sends many inputs, at most `concurrency` at a time; the results are in their order.

        An input that fails has its error in the list. `timeout` holds for each input by itself.
        `inputs` is read as the calls go on, so a generator need not fit into memory.
        """
        if concurrency < 1:
            raise UsageError(f"concurrency is {concurrency}: expected 1 or more")
        if isinstance(inputs, (str, bytes, dict)):
            raise UsageError(f"inputs is one {type(inputs).__name__}: expected a list of inputs")
        results: dict[int, Answer | ClientError] = {}
        source, lock, stop = enumerate(inputs), Lock(), Event()

        def work() -> None:
            while not stop.is_set():
                with lock:
                    item = next(source, None)
                if item is None:
                    return
                position, value = item
                try:
                    results[position] = self.predict(model, value, version=version, timeout=timeout)
                except ClientError as error:
                    results[position] = error

        with ThreadPoolExecutor(concurrency, "vestal-predict") as pool:
            workers = [pool.submit(work) for _ in range(concurrency)]
            try:
                for worker in as_completed(workers):
                    worker.result()
            finally:
                stop.set()
        return [results[position] for position in range(len(results))]

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
        context = self._context(timeout)
        return self._run(readiness.ready(context, model, version), context)

    def wait_ready(
        self, model: str, version: str | None = None, *, timeout: Timeout = DEFAULT
    ) -> ModelDescription:
        """Waits until a version is ready, also for a server or a model that is not there yet.

        Raises NotReady where its workers keep dying while they load it, DeadlineExceeded.
        """
        context = self._context(timeout)
        return self._run(readiness.wait_ready(context, model, version), context)

    def models(self, *, timeout: Timeout = DEFAULT) -> list[ModelInfo]:
        """Every served version of every model."""
        context = self._context(timeout)
        return self._run(management.models(context), context)

    def versions(self, model: str, *, timeout: Timeout = DEFAULT) -> list[ModelDescription]:
        """Every served version of one model, as it runs. Raises NotFound."""
        context = self._context(timeout)
        return self._run(management.versions(context, model), context)

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
        context = self._context(timeout)
        steps = management.describe(context, model, version, customized=customized)
        return self._run(steps, context)

    def register(
        self,
        archive: str,
        *,
        model: str | None = None,
        workers: int = 1,
        timeout: Timeout = DEFAULT,
    ) -> ModelInfo:
        """Registers an archive of the server's store and waits until every worker is ready.

        `archive`: a file name such as "mnist-1.0.mar". `model`: another name than the archive's
        own. `workers`: how many, unless the archive's model-config.yaml says (it wins). The first
        version of a model is its default; later ones become it by `set_default`.
        Raises NotFound (no such archive), Conflict (that version is there), NotReady,
        DeadlineExceeded; after the last two the version is still registered.
        """
        context = self._context(timeout)
        return self._run(lifecycle.register(context, archive, model, workers), context)

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
        context = self._context(timeout)
        self._run(lifecycle.scale(context, model, workers, version), context)

    def set_default(self, model: str, version: str, *, timeout: Timeout = DEFAULT) -> None:
        """Makes a version the one that calls without a version get; loses no request."""
        context = self._context(timeout)
        self._run(management.set_default(context, model, version), context)

    def unregister(
        self, model: str, version: str, *, drain: bool = True, timeout: Timeout = DEFAULT
    ) -> None:
        """Removes a version, once it is idle: nothing queued, nothing in a worker.

        With `drain=False` it goes at once, and what it has in work is lost. Raises Conflict for
        the default version while others are served, DeadlineExceeded where it does not get idle
        (then it is still registered), NotFound.
        """
        context = self._context(timeout)
        self._run(lifecycle.unregister(context, model, version, drained=drain), context)

    def metrics_text(self, *, timeout: Timeout = DEFAULT) -> str:
        """The server's Prometheus page, as text."""
        context = self._context(timeout)
        reply = self._run(context.send(Call("metrics", "GET", "/metrics")), context)
        return reply.body.decode("utf-8", "replace")

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

    def __repr__(self) -> str:
        return f"<Client {' '.join(self._addresses.known())}, {self._tokens!r}>"

    def _context(self, timeout: Timeout) -> Context:
        seconds = self._timeout if isinstance(timeout, UseClientTimeout) else timeout
        return Context(self._addresses, self._tokens, Deadline(seconds))

    def _run(self, steps: Steps[T], context: Context) -> T:
        return carry_out(steps, self._transport, context.deadline)
