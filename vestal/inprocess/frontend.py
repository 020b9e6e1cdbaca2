"""TorchServe's frontend for a handler that runs here: it parses requests, or refuses them.

RawRequest -> `receive` -> Input -> batch -> handler -> Response
                        -> RefusedRequest ------------> Response
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vestal.inprocess.loaded_archive import LoadedArchive
from vestal.inprocess.messages import Input, RefusedRequest, Response
from vestal.inprocess.timing import Times
from vestal.project import Project

MAX_REQUEST_SIZE = 6_553_500  # TorchServe's default


@dataclass(frozen=True)
class RawRequest:
    """A request before its body is parsed; `name` is for messages."""

    name: str
    body: bytes = field(repr=False)
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Requests and their responses; `times` is None if none of them reached the handler."""

    requests: list[RawRequest]
    responses: list[Response]
    times: Times | None


@dataclass(frozen=True)
class Frontend:
    """Settings of config.properties.

    Attributes:
        max_request_size: the largest body, in bytes.
        decode: decode_input_request.
    """

    max_request_size: int = MAX_REQUEST_SIZE
    decode: bool = True

    @classmethod
    def of(cls, project: Project) -> Frontend:
        """Read the project's config.properties, or else the one that Vestal includes.

        Raises:
            VestalError: the file cannot be read.
            UsageError: a setting is invalid.
        """
        from vestal.configuration.config import Configuration

        configuration = Configuration.load(project)
        return cls(
            configuration.integer("max_request_size"), configuration.flag("decode_input_request")
        )

    def receive(self, request: RawRequest, *, explain: bool = False) -> Input:
        """Parse a request into what a worker receives.

        Raises:
            RefusedRequest: the request does not reach the handler.
        """
        if len(request.body) > self.max_request_size:
            # On a server the response has no body, so the reason is not sent.
            reason = f"more than {self.max_request_size:,} bytes (max_request_size)"
            raise RefusedRequest(413, "", reason)
        return Input.from_http(request.body, request.content_type, request.headers, explain=explain)

    def predict(
        self,
        loaded: LoadedArchive,
        requests: Sequence[RawRequest],
        size: int = 1,
        *,
        explain: bool = False,
    ) -> list[Batch]:
        """Send all requests in batches of `size`; responses are in the order of the requests."""
        batches = []
        for start in range(0, len(requests), size):
            group = list(requests[start : start + size])
            responses, times = self.predict_batch(loaded, group, explain=explain)
            batches.append(Batch(group, responses, times))
        return batches

    def predict_batch(
        self, loaded: LoadedArchive, batch: Sequence[RawRequest | Input], *, explain: bool = False
    ) -> tuple[list[Response], Times | None]:
        """Return a response for each request, refused ones included, and the handler's times.

        The times are None if no request reached the handler. An `Input` is not parsed.
        """
        received: list[Input | Response] = []
        for each in batch:
            try:
                if not isinstance(each, Input):
                    each = self.receive(each, explain=explain)
                received.append(each)
            except RefusedRequest as refused:
                received.append(Response.refusing(refused))
        inputs = [each for each in received if isinstance(each, Input)]
        predicted = iter(loaded.predict(inputs) if inputs else [])
        responses = [next(predicted) if isinstance(each, Input) else each for each in received]
        return responses, loaded.times if inputs else None
