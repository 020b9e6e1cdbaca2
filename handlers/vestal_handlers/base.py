"""One batch, one fate per request.

TorchServe hands a handler a batch of requests and fails all of them for one exception. Here each
instance of each request is decoded, forwarded and encoded for itself: a failure stays with its
request, and every request gets an answer, in order.

    request -> instances -> decode -> batch -> forward -> encode -> answer
    `handle`    `preprocess`             `inference`      `postprocess`

A task adds `decode(instance) -> sample` and `encode(output, instance) -> answer`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from ts.torch_handler.base_handler import BaseHandler

from vestal_handlers import engines
from vestal_handlers.errors import Failure, HandlerError, InputError, OutOfMemory
from vestal_handlers.metrics import Metrics
from vestal_handlers.options import Options, read_options
from vestal_handlers.request import Instance, Request, read_request

if TYPE_CHECKING:
    from ts.context import Context

logger = logging.getLogger(__name__)

RESPONSE_TIMEOUT = 120.0  # TorchServe's default (default_response_timeout), seconds


class BatchHandler(BaseHandler):  # type: ignore[misc]
    """The base of every handler.

    A task sets `options_type` and overrides `setup`, `decode`, `encode` and `blank`; one whose
    forward is no single call of the engine overrides `forward` too.
    """

    options_type: ClassVar[type[Options]] = Options
    options: Any

    # --- load ---------------------------------------------------------------------------------

    def initialize(self, context: Context) -> None:
        """Loads the archive; returning means warm.

        Raises:
            RuntimeError: an option, the artifact or the warm-up failed; TorchServe logs its text
                and the worker does not become READY.
        """
        self.context, self.manifest = context, context.manifest
        self.model_dir = Path(context.system_properties["model_dir"])
        self.config: dict[str, Any] = context.model_yaml_config or {}
        model = self.manifest["model"]
        self.name: str = context.model_name or model["modelName"]
        self.version: str = str(model["modelVersion"])
        self.metrics = Metrics(context.metrics, self.name, self.version)
        try:
            self.options = read_options(self.options_type, self.config.get("handler"))
            self.threads: int = self.options.threads or _share_of_cores(self.config)
            torch.set_num_threads(self.threads)
            self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
            self.device = _device(context.system_properties.get("gpu_id"))
            self.engine = engines.load(
                self.model_dir / model["serializedFile"], self.device, name=self.options.engine
            )
            self.setup()
            if self.options.warm_up:
                self.warm_up(int(context.system_properties.get("batch_size") or 1))
        except Exception as error:
            raise RuntimeError(f"{self.name} {self.version} did not load: {error}") from error
        self.initialized = True

    def setup(self) -> None:
        """Loads what the task needs beside the engine: labels, transforms."""

    def warm_up(self, batch_size: int) -> None:
        """Runs the batch sizes that will come, so that READY means warm.

        Each size runs twice: TorchScript profiles at the first and optimizes at the second.
        """
        request = Request(0, "warm-up", {})
        for size in range(1, batch_size + 1):
            for _ in range(2):
                for output in self.forward([self.blank()] * size):
                    self.encode(output, Instance(request, payload=None))

    # --- what a task says ---------------------------------------------------------------------

    def blank(self) -> Any:
        """A sample for the warm-up."""
        raise NotImplementedError(f"{type(self).__name__} must define blank()")

    def decode(self, instance: Instance) -> Any:
        """`instance.payload` (bytes, str or a JSON value) becomes a sample.

        Raises:
            InputError: with the status and the message that this request gets.
        """
        raise NotImplementedError(f"{type(self).__name__} must define decode()")

    def encode(self, output: Any, instance: Instance) -> Any:
        """One output of the model becomes an answer: a JSON value, or bytes with `content_type`."""
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def forward(self, samples: Sequence[Any]) -> Sequence[Any]:
        """One forward: samples, all decoded, become as many outputs, on the CPU."""
        with torch.inference_mode():
            outputs: Tensor = self.engine(torch.stack(list(samples)).to(self.device))
        return list(outputs.cpu().unbind())

    def describe(self) -> dict[str, Any]:
        """What `GET /models/{name}?customized=true` answers; goes through the worker's queue."""
        return {
            "name": self.name,
            "version": self.version,
            "handler": type(self).__mro__[1].__name__,
            "engine": self.engine.describe(),
            "pid": os.getpid(),
        }

    # --- one batch ----------------------------------------------------------------------------

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """One batch: an answer for every request, in order."""
        self.metrics.observe("batch_size", len(data))
        requests = self.preprocess(data, context)
        self.inference(requests)
        return self.postprocess(requests, context)

    def preprocess(self, data: list[dict[str, Any]], context: Context) -> list[Request]:
        """Reads every request and decodes every instance, each for itself."""
        with self._timed("decode_seconds"):
            requests = [
                read_request(
                    index,
                    context.get_request_id(index) or "",
                    row,
                    context.get_all_request_header(index),
                    self.options,
                )
                for index, row in enumerate(data)
            ]
            for request in requests:
                if request.asks_for("explain") and not request.error:
                    request.error = InputError(400, f"model {self.name} gives no explanations")
            waiting = [i for request in requests if not request.error for i in request.instances]
            # A lone instance is decoded here: a thread would only add its start.
            run = self.pool.map if len(waiting) > 1 else map
            list(run(self._decode_one, waiting))
        return requests

    def _decode_one(self, instance: Instance) -> None:
        try:
            instance.sample = self.decode(instance)
        except Exception as error:
            instance.error = self._failure(error, instance, "decode")

    def inference(self, requests: list[Request]) -> None:
        """Forwards what was decoded; what fails is found by halving the batch."""
        ready = [i for r in requests if not r.error for i in r.instances if not i.error]
        timeout = float(self.config.get("responseTimeout") or RESPONSE_TIMEOUT)
        with self._timed("forward_seconds"):
            # Past responseTimeout TorchServe kills the worker: half of it is for finding culprits.
            self._forward_or_halve(ready, until=time.monotonic() + timeout / 2)

    def _forward_or_halve(self, group: list[Instance], until: float) -> None:
        if not group:
            return
        try:
            outputs = self.forward([instance.sample for instance in group])
            if len(outputs) != len(group):
                raise RuntimeError(f"the model gave {len(outputs)} outputs for {len(group)} inputs")
        except Exception as error:
            if len(group) == 1:
                group[0].error = self._failure(error, group[0], "forward")
            elif time.monotonic() > until:
                for instance in group:
                    instance.error = self._failure(error, instance, "forward")
            else:
                self._forward_or_halve(group[: len(group) // 2], until)
                self._forward_or_halve(group[len(group) // 2 :], until)
            return
        for instance, output in zip(group, outputs, strict=True):
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                instance.error = HandlerError("the model's output is not finite (NaN or infinity)")
            else:
                instance.output = output

    def postprocess(self, requests: list[Request], context: Context) -> list[bytes]:
        """Encodes every answer and sets status, headers and content type, request by request."""
        with self._timed("encode_seconds"):
            return [self._answer(request, context) for request in requests]

    def _answer(self, request: Request, context: Context) -> bytes:
        for name, value in {
            "x-model-name": self.name,
            "x-model-version": self.version,
            **request.echoes(),
        }.items():
            context.set_response_header(request.index, name, value)
        context.set_response_content_type(request.index, "application/json")
        try:
            if request.asks_for("describe"):
                return _to_json(self.describe())
            if request.error:
                raise request.error
            answers = [self._encode_one(instance) for instance in request.instances]
            failed = [i.error for i in request.instances if i.error]
            if len(failed) == len(answers):
                raise failed[0]
            if not request.many:
                return answers[0]
            if failed:
                context.set_response_header(request.index, "x-failed-instances", str(len(failed)))
            return b'{"predictions": [' + b", ".join(answers) + b"]}"
        except Exception as error:
            failure = self._failure(error, request, "answer")
            self.metrics.count_failure(type(failure).__name__)
            context.set_response_status(failure.status, failure.phrase, request.index)
            return _to_json(failure.body(request.id))

    def _encode_one(self, instance: Instance) -> bytes:
        """An instance's answer or its error, as JSON."""
        if not instance.error:
            try:
                return _to_json(self.encode(instance.output, instance))
            except Exception as error:
                instance.error = self._failure(error, instance, "encode")
        return _to_json(instance.error.body(instance.request.id))

    def _failure(self, error: Exception, of: Instance | Request, step: str) -> Failure:
        """What the caller is told; what is not the caller's fault is logged with its traceback."""
        if isinstance(error, Failure):
            return error
        request = of.request if isinstance(of, Instance) else of
        logger.error("request %s failed at %s", request.id, step, exc_info=error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return OutOfMemory(f"not enough memory to {step} this request")
        # The text of an exception can hold anything: the caller gets its kind, the log the rest.
        return HandlerError(
            f"model {self.name} {self.version} failed at {step} ({type(error).__name__}); "
            "the server's log has the reason under this request id"
        )

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.metrics.observe(name, time.perf_counter() - start)


def _to_json(value: Any) -> bytes:
    # Encoded here: TorchServe would indent it, let NaN through, and name no content type.
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def _share_of_cores(config: dict[str, Any]) -> int:
    workers = config.get("maxWorkers") or config.get("minWorkers") or 1
    return max(1, len(os.sched_getaffinity(0)) // int(workers))


def _device(gpu_id: Any) -> torch.device:
    # On a CPU server gpu_id is None or -1.
    if gpu_id is not None and int(gpu_id) >= 0 and torch.cuda.is_available():
        return torch.device("cuda", int(gpu_id))
    return torch.device("cpu")
