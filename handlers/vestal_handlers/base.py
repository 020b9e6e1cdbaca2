"""One batch, one fate per request.

TorchServe hands a handler a batch of requests and fails all of them for one exception. Here each
instance of each request is decoded, forwarded and encoded for itself: a failure stays with its
request, and every request gets an answer, in order.

    request -> instances -> decode -> batch -> forward -> encode -> answer
    `handle`    `preprocess`             `inference`      `postprocess`

A task adds `decode(instance) -> sample` and `encode(output, instance) -> answer`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from ts.torch_handler.base_handler import BaseHandler

from vestal_handlers import engines
from vestal_handlers.description import description_of, description_or_sample
from vestal_handlers.device import device_of, response_timeout, sha256_of, share_of_cores
from vestal_handlers.engines.tensors import map_tensors, stack, unstack
from vestal_handlers.errors import Failure, HandlerError, InputError
from vestal_handlers.failures import failure_of
from vestal_handlers.forwarding import NO_TIME, forward_each
from vestal_handlers.metrics import Metrics
from vestal_handlers.options import OptionError, Options, read_options
from vestal_handlers.requests.request import Instance, Request, in_turn, read_request
from vestal_handlers.requests.responses import Media, Reply, reply_to, to_json, too_large

if TYPE_CHECKING:
    from ts.context import Context

# Parts of responseTimeout after which nothing is begun: past all of it TorchServe kills the worker.
DECODE_SHARE, FORWARD_SHARE = 0.5, 0.75


class BatchHandler(BaseHandler):  # type: ignore[misc]
    """The base of every handler.

    A task sets `options_type`, overrides `decode`, `encode` and `example_input`, and whatever else
    it needs of the methods under "What a task defines".
    """

    options_type: ClassVar[type[Options]] = Options
    rows: ClassVar[bool] = False  # a JSON array of arrays or objects is as many instances
    json_bodies: ClassVar[bool] = False  # a body is JSON, whatever type it is sent as
    all_outputs: ClassVar[bool] = False  # `encode` gets every output of the model, not one
    options: Any
    started: float = 0.0  # time.monotonic() when this batch came
    until: float = float("inf")  # time.monotonic() after which nothing more of it is begun

    def __init__(self) -> None:
        super().__init__()
        del self.explain  # BaseHandler's flag for a whole batch; here each request is asked

    # --- What a task defines ------------------------------------------------------------------

    def load_engine(self, artifact: Path) -> Any:
        """Loads what computes; has `describe()`, and is called by `forward`."""
        options = self.options
        if self.all_outputs and options.output is not None:
            raise OptionError(
                f"handler.output in model-config.yaml is {options.output!r}, but this task takes "
                "all outputs of the model; remove the option"
            )
        return engines.load(
            artifact,
            self.device,
            options.precision,
            options.engine,
            channels_last=options.channels_last,
            output=options.output,
            all_outputs=self.all_outputs,
        )

    def setup(self) -> None:
        """Loads what the task needs beside the engine: labels, transforms."""

    def example_input(self) -> Any:
        """A sample for the warm-up: a tensor, or a dict of tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define example_input()")

    def admit(self, request: Request) -> None:
        """Refuses what is too much together, before anything is decoded: all or some instances."""
        count, most = len(request.instances), self.options.max_explained
        if request.asks_for("explain") and count > most:
            raise InputError(413, f"{count} explanations, at most {most} (handler.max_explained)")

    def decode(self, instance: Instance) -> Any:
        """`instance.payload` (bytes, str or a JSON value) becomes a sample.

        Raises:
            InputError: with the status and the message that this request gets.
        """
        raise NotImplementedError(f"{type(self).__name__} must define decode()")

    def forward(self, samples: Sequence[Any]) -> Sequence[Any]:
        """Compute one output per sample, on the CPU, in one forward pass.

        Samples are tensors, or dicts of tensors by the names of the model's inputs; all of one
        batch have the same shapes, as nothing is padded. An output has the form that the engine
        gives: a tensor, or a dict or tuple of tensors with `all_outputs`. It may be a `Failure`:
        the error of that instance.
        """
        batch = stack(samples)
        if self.device.type == "cuda":
            batch = map_tensors(self._to_device, batch)
        with torch.inference_mode():
            outputs = self.engine(batch)
        return unstack(map_tensors(Tensor.cpu, outputs))

    def encode(self, output: Any, instance: Instance) -> Any:
        """Turn one output of the model into a prediction: a JSON value, or `Media`.

        The output is a tensor without the batch dimension; with `all_outputs`, a dict of such
        tensors where the model names its outputs, or a tuple of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def explain(self, sample: Any, instance: Instance) -> Any:
        """Why the model says what it says of a sample: an answer as from `encode`."""
        raise InputError(400, f"model {self.name} gives no explanations")

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of one instance's payload."""
        return {}

    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of one answer."""
        return {}

    def example(self) -> Any:
        """A payload that this model answers; None where there is none to give."""
        return None

    def limits(self) -> dict[str, Any]:
        """What is refused for its size, by option."""
        names = ("bytes", "json_bytes", "values", "instances", "explained", "depth")
        return {f"max_{name}": getattr(self.options, f"max_{name}") for name in names}

    def describe(self) -> dict[str, Any]:
        """What `GET /models/{name}?customized=true` answers; goes through the worker's queue."""
        return description_of(self)

    # --- Load ---------------------------------------------------------------------------------

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
        # The client's drain must tell workers apart; a pid would tell callers about the host.
        self.worker_id = secrets.token_hex(8)
        self.metrics = Metrics(context.metrics, self.name, self.version)
        try:
            self.options = read_options(self.options_type, self.config.get("handler"))
            self.threads: int = self.options.threads or share_of_cores(self.config)
            torch.set_num_threads(self.threads)
            self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
            self.device = device_of(context.system_properties.get("gpu_id"))
            artifact = self.model_dir / model["serializedFile"]
            self.engine = self.load_engine(artifact)
            self.artifact_sha256 = sha256_of(artifact)
            self.setup()
            if self.options.warm_up:
                self.warm_up(int(context.system_properties.get("batch_size") or 1))
        except Exception as error:
            raise RuntimeError(f"{self.name} {self.version} did not load: {error}") from error
        self.initialized = True

    def warm_up(self, batch_size: int) -> None:
        """Runs the batch sizes that will come, so that READY means warm.

        Each size runs twice: TorchScript profiles at the first and optimizes at the second.
        """
        request = Request(0, "warm-up", {})
        for size in range(1, min(batch_size, self.options.max_forward) + 1):
            for _ in range(2):
                for output in self.forward([self.example_input()] * size):
                    self.encode(output, Instance(request, payload=None))

    # --- One batch ----------------------------------------------------------------------------

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """One batch: an answer for every request, in order."""
        self.metrics.observe("batch_size", len(data))
        requests = self.preprocess(data, context)
        self.inference(requests)
        return self.postprocess(requests, context)

    def preprocess(self, data: list[dict[str, Any]], context: Context) -> list[Request]:
        """Reads every request and decodes every instance, each for itself."""
        self.started = time.monotonic()
        self.until = self.started + DECODE_SHARE * response_timeout(self.config)
        requests: list[Request] = []
        done = 0
        with self.metrics.timed("decode_seconds"):
            for index, row in enumerate(data):
                requests.append(self._read(index, row, context))
                # Parsed JSON takes many times its size: little of it waits to be decoded.
                if sum(r.size for r in requests[done:]) > self.options.max_json_bytes:
                    self._decode(requests[done:])
                    done = len(requests)
            self._decode(requests[done:])
        return requests

    def inference(self, requests: list[Request]) -> None:
        """Forwards what was decoded; what fails is found by halving the batch."""
        self.until = self.started + FORWARD_SHARE * response_timeout(self.config)
        with self.metrics.timed("forward_seconds"):
            ready = in_turn(requests)
            predicted = [i for i in ready if not i.request.asks_for("explain")]
            for start in range(0, len(predicted), self.options.max_forward):
                group = predicted[start : start + self.options.max_forward]
                forward_each(group, self.forward, self._blame, self.until)
            for instance in ready:
                if instance.request.asks_for("explain"):
                    self._explain_one(instance)

    def postprocess(self, requests: list[Request], context: Context) -> list[bytes]:
        """Encodes every answer and sets status, headers and content type, request by request."""
        with self.metrics.timed("encode_seconds"):
            bodies = [self._answer(request, context) for request in requests]
            for index in too_large(bodies, self.options.max_response_bytes):
                size = f"a response of {len(bodies[index]):,} bytes (handler.max_response_bytes)"
                requests[index].error = InputError(413, f"{size}; send fewer instances at once")
                bodies[index] = self._answer(requests[index], context)
            return bodies

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True)

    # --- One request, one instance ------------------------------------------------------------

    def _read(self, index: int, row: dict[str, Any], context: Context) -> Request:
        request_id = context.get_request_id(index) or ""
        headers = context.get_all_request_header(index)
        try:
            request = read_request(index, request_id, row, headers, self)
            self.admit(request)
            return request
        except Exception as error:
            request = Request(index, request_id, {})
            request.error = self._failure(error, request, "read")
            return request

    def _decode(self, requests: list[Request]) -> None:
        waiting = in_turn(requests)
        # One instance, or one thread: decoded here, as a pool would only add its own work.
        run = self.pool.map if min(len(waiting), self.threads) > 1 else map
        list(run(self._decode_one, waiting))

    def _decode_one(self, instance: Instance) -> None:
        try:
            if time.monotonic() > self.until:
                raise HandlerError(NO_TIME)
            instance.sample = self.decode(instance)
        except Exception as error:
            instance.error = self._failure(error, instance.request, "decode")
            instance.payload = None  # parsed JSON takes many times its size

    def _explain_one(self, instance: Instance) -> None:
        try:
            with torch.enable_grad():
                instance.answer = self.explain(instance.sample, instance)
        except Exception as error:
            instance.error = self._failure(error, instance.request, "explain")

    def _encode_one(self, instance: Instance) -> None:
        try:
            if not instance.request.asks_for("explain"):
                instance.answer = self.encode(instance.output, instance)
            answer = instance.answer
            instance.body = answer.body if isinstance(answer, Media) else to_json(answer)
        except Exception as error:
            instance.error = self._failure(error, instance.request, "encode")

    def _answer(self, request: Request, context: Context) -> bytes:
        try:
            reply = self._reply(request)
        except Exception as error:
            failure = self._failure(error, request, "answer")
            self.metrics.count_failure(type(failure).__name__)
            context.set_response_status(failure.status, failure.phrase, request.index)
            reply = Reply(to_json(failure.body(request.id)))
        named = {"x-model-name": self.name, "x-model-version": self.version}
        for name, value in {**named, **request.echoes(), **reply.headers}.items():
            context.set_response_header(request.index, name, value)
        context.set_response_content_type(request.index, reply.content_type)
        return reply.body

    def _reply(self, request: Request) -> Reply:
        if request.asks_for("describe"):
            return Reply(to_json(description_or_sample(self, request)))
        if request.error:
            raise request.error
        for instance in request.instances:
            if not instance.error:
                self._encode_one(instance)
        return reply_to(request, self.name, self.version)

    def _blame(self, error: Exception, instance: Instance) -> Failure:
        return self._failure(error, instance.request, "forward")

    def _failure(self, error: Exception, request: Request, step: str) -> Failure:
        return failure_of(error, f"{self.name} {self.version}", request.id, step)
