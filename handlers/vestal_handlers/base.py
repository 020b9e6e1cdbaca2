"""Handle a batch so that the failure of one request does not affect the others.

TorchServe passes a batch of requests to a handler, and one exception fails them all. Here every
instance of every request is decoded, predicted and encoded separately: a failure affects only its
request, and every request gets a response, in order.

    request -> instances -> decode -> batch -> forward -> encode -> response
    `handle`    `preprocess`             `inference`      `postprocess`

A task adds `decode(instance) -> sample` and `encode(output, instance) -> prediction`.
"""

from __future__ import annotations

import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vestal_handlers.description import describe_handler, describe_or_sample
from vestal_handlers.device import device_of, response_timeout, sha256_of
from vestal_handlers.digests import DigestLog
from vestal_handlers.errors import HandlerError, InputError, RequestFailure
from vestal_handlers.failures import failure_of
from vestal_handlers.forwarding import OUT_OF_TIME, forward_each
from vestal_handlers.malloc import keep_freed_memory
from vestal_handlers.metrics import HandlerMetrics
from vestal_handlers.options import read_options
from vestal_handlers.requests.request import (
    InferenceRequest,
    Instance,
    pending_instances,
    read_request,
)
from vestal_handlers.requests.responses import (
    HandlerResponse,
    Media,
    oversized,
    response_to,
    to_json,
)
from vestal_handlers.task_hooks import TaskHooks
from vestal_handlers.threads import count_workers, explain_threads, share_of_cores

if TYPE_CHECKING:
    from ts.context import Context

logger = logging.getLogger(__name__)

# Fractions of responseTimeout after which no step begins; TorchServe kills the worker at 1.
DECODE_SHARE, FORWARD_SHARE = 0.5, 0.75


class BatchHandler(TaskHooks):
    """The base of every handler; `TaskHooks` has the methods that a task overrides."""

    started: float = 0.0  # time.monotonic() when this batch arrived
    deadline: float = float("inf")  # time.monotonic() after which no step of the batch begins

    def __init__(self) -> None:
        super().__init__()
        del self.explain  # BaseHandler sets a flag of this name, which would hide the method

    def describe(self) -> dict[str, Any]:
        """The response to `GET /models/{name}?customized=true`; goes through the worker's queue."""
        return describe_handler(self)

    # --- Load ---------------------------------------------------------------------------------

    def initialize(self, context: Context) -> None:
        """Load the archive; when it returns, the model is warm.

        Raises:
            RuntimeError: an option, the artifact or the warm-up failed; TorchServe logs the message
                and the worker does not become READY.
        """
        self.context, self.manifest = context, context.manifest
        self.model_dir = Path(context.system_properties["model_dir"])
        self.config: dict[str, Any] = context.model_yaml_config or {}
        model = self.manifest["model"]
        self.name: str = context.model_name or model["modelName"]
        self.version: str = str(model["modelVersion"])
        # A client that drains a model must distinguish its workers; a pid would disclose more.
        self.worker_id = secrets.token_hex(8)
        self.metrics = HandlerMetrics(context.metrics, self.name, self.version)
        self.digests = DigestLog.of_server(self.name, self.version, self.worker_id)
        try:
            self.options = read_options(self.options_type, self.config.get("handler"))
            workers = count_workers(self.config, self.name, self.version)
            self.threads: int = self.options.threads or share_of_cores(workers)
            torch.set_num_threads(self.threads)
            keep_freed_memory()
            threads = explain_threads(self.threads, workers)
            logger.info("%s %s: CPU threads: %s", self.name, self.version, threads)
            self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
            self.device = device_of(context.system_properties.get("gpu_id"))
            artifact = self.model_dir / model["serializedFile"]
            self.engine = self.load_engine(artifact)
            self.metrics.set_engine(self.engine)
            self.artifact_sha256 = sha256_of(artifact)
            self.setup()
            if self.options.warm_up:
                self.warm_up(int(context.system_properties.get("batch_size") or 1))
        except Exception as error:
            raise RuntimeError(f"{self.name} {self.version} did not load: {error}") from error
        self.initialized = True

    def warm_up(self, batch_size: int) -> None:
        """Run every batch size that can occur.

        Each size runs twice: TorchScript profiles in the first run and optimizes in the second.
        """
        request = InferenceRequest(0, "warm-up", {})
        for size in range(1, min(batch_size, self.options.max_forward) + 1):
            for _ in range(2):
                sample = self.example_input()
                for output in self.forward([sample] * size):
                    self.encode(output, Instance(request, payload=None, sample=sample))

    # --- One batch ----------------------------------------------------------------------------

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """Return a response body for every request of a batch, in order."""
        begun = time.monotonic()
        self.metrics.observe("batch_size", len(data))
        requests = self.preprocess(data, context)
        self.inference(requests)
        bodies = self.postprocess(requests, context)
        if self.digests is not None:
            self.digests.add(requests, bodies, context, begun)
        return bodies

    def preprocess(self, data: list[dict[str, Any]], context: Context) -> list[InferenceRequest]:
        """Read every request and decode every instance."""
        self.started = time.monotonic()
        self.deadline = self.started + DECODE_SHARE * response_timeout(self.config)
        requests: list[InferenceRequest] = []
        done = 0
        with self.metrics.timed("decode_seconds"):
            for index, row in enumerate(data):
                requests.append(self._read(index, row, context))
                # Parsed JSON takes many times its size in memory, so little of it is kept.
                if sum(r.size for r in requests[done:]) > self.options.max_json_bytes:
                    self._decode(requests[done:])
                    done = len(requests)
            self._decode(requests[done:])
        return requests

    def inference(self, requests: list[InferenceRequest]) -> None:
        """Compute the outputs of all decoded instances, and the explanations."""
        self.deadline = self.started + FORWARD_SHARE * response_timeout(self.config)
        with self.metrics.timed("forward_seconds"):
            ready = pending_instances(requests)
            predicted = [i for i in ready if not i.request.has_flag("explain")]
            for start in range(0, len(predicted), self.options.max_forward):
                group = predicted[start : start + self.options.max_forward]
                forward_each(group, self.forward, self._forward_failure, self.deadline)
            for instance in ready:
                if instance.request.has_flag("explain"):
                    self._explain_one(instance)

    def postprocess(self, requests: list[InferenceRequest], context: Context) -> list[bytes]:
        """Encode every prediction and set the status, headers and content type of each response."""
        with self.metrics.timed("encode_seconds"):
            bodies = [self._respond(request, context) for request in requests]
            for index in oversized(bodies, self.options.max_response_bytes):
                size = f"a response of {len(bodies[index]):,} bytes (handler.max_response_bytes)"
                requests[index].error = InputError(413, f"{size}; send fewer instances at once")
                bodies[index] = self._respond(requests[index], context)
            return bodies

    # --- One request, one instance ------------------------------------------------------------

    def _read(self, index: int, row: dict[str, Any], context: Context) -> InferenceRequest:
        request_id = context.get_request_id(index) or ""
        headers = context.get_all_request_header(index)
        try:
            request = read_request(index, request_id, row, headers, self)
            self.check_request(request)
            return request
        except Exception as error:
            request = InferenceRequest(index, request_id, {})
            request.error = self._failure(error, request, "read")
            return request

    def _decode(self, requests: list[InferenceRequest]) -> None:
        waiting = pending_instances(requests)
        # For one instance or one thread, a pool would only add overhead.
        run = self.pool.map if min(len(waiting), self.threads) > 1 else map
        list(run(self._decode_one, waiting))

    def _decode_one(self, instance: Instance) -> None:
        try:
            if time.monotonic() > self.deadline:
                raise HandlerError(OUT_OF_TIME)
            instance.sample = self.decode(instance)
        except Exception as error:
            instance.error = self._failure(error, instance.request, "decode")
            instance.payload = None  # parsed JSON takes many times its size in memory

    def _explain_one(self, instance: Instance) -> None:
        try:
            with torch.enable_grad():
                instance.prediction = self.explain(instance.sample, instance)
        except Exception as error:
            instance.error = self._failure(error, instance.request, "explain")

    def _encode_one(self, instance: Instance) -> None:
        try:
            if not instance.request.has_flag("explain"):
                instance.prediction = self.encode(instance.output, instance)
            prediction = instance.prediction
            instance.body = (
                prediction.body if isinstance(prediction, Media) else to_json(prediction)
            )
        except Exception as error:
            instance.error = self._failure(error, instance.request, "encode")

    def _respond(self, request: InferenceRequest, context: Context) -> bytes:
        try:
            response = self._response(request)
        except Exception as error:
            failure = self._failure(error, request, "respond")
            self.metrics.count_failure(type(failure).__name__)
            context.set_response_status(failure.status, failure.phrase, request.index)
            response = HandlerResponse(to_json(failure.body(request.id)))
        model = {"x-model-name": self.name, "x-model-version": self.version}
        for name, value in {**model, **request.echoed_headers(), **response.headers}.items():
            context.set_response_header(request.index, name, value)
        context.set_response_content_type(request.index, response.content_type)
        return response.body

    def _response(self, request: InferenceRequest) -> HandlerResponse:
        if request.has_flag("describe"):
            self.metrics.flush()  # after it, a drained worker may be removed
            return HandlerResponse(to_json(describe_or_sample(self, request)))
        if request.error:
            raise request.error
        for instance in request.instances:
            if not instance.error:
                self._encode_one(instance)
        return response_to(request, self.name, self.version)

    def _forward_failure(self, error: Exception, instance: Instance) -> RequestFailure:
        return self._failure(error, instance.request, "forward")

    def _failure(self, error: Exception, request: InferenceRequest, step: str) -> RequestFailure:
        return failure_of(error, f"{self.name} {self.version}", request.id, step)
