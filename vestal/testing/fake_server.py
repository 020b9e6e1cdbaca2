"""A TorchServe for tests of calling code: real HTTP on a free port, responses set by the test."""

from __future__ import annotations

import json
import socket
import threading
import traceback
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from vestal.testing.fake_models import FakeError, FakeModels, FakeVersion, archive_name, no_worker

if TYPE_CHECKING:
    from vestal.client import AsyncClient, Client


class FakeFailure(Enum):
    """How TorchServe fails: status, type and message of its response."""

    WORKER_DIED = (500, "InternalServerException", "Worker died.")
    QUEUE_FULL = (503, "ServiceUnavailableException", "Worker queue capacity exceeded.")
    HANDLER_RAISED = (503, "InternalServerException", "Prediction failed")
    TOO_LARGE = (413, "TooLongFrameException", "Request body is too large")
    RESET = (0, "", "the connection is reset")
    SILENCE = (0, "", "no response is ever sent")


@dataclass(frozen=True)
class FakeRequest:
    """One received prediction or explanation request. Header names are in lower case."""

    kind: str
    model: str
    version: str | None
    body: bytes
    headers: Mapping[str, str] = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


class FakeServer:
    """Responds like TorchServe with Vestal's handlers; `client()` creates a client for it.

        with FakeServer() as server, server.client() as client:
            server.answer("mnist", {"label": "7"})
            assert client.predict("mnist", b"...")["label"] == "7"

    `url` is the address of all three APIs. `token`: token that callers must send; None: none.
    `requests`: every prediction and explanation request so far, including failed ones.
    """

    def __init__(self, *, token: str | None = None) -> None:
        self.requests: list[FakeRequest] = []
        self._token = token
        self._models = FakeModels()
        self._failures: defaultdict[str, list[FakeFailure | FakeError]] = defaultdict(list)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, model: str, answer: Any, *, version: str = "1.0") -> None:
        """Serve a version with this response; the first version of a model is its default.

        `answer`: a JSON value, bytes, or a function that returns either for a `FakeRequest`; if it
        raises, the request fails as in a handler, with the traceback on stderr.
        """
        with self._lock:
            self._models.serve(FakeVersion(model, version, archive_name(model, version), answer))

    def store(self, model: str, answer: Any, *, version: str = "1.0") -> str:
        """Put an archive into the model store for `client.register`; return its file name."""
        archive = archive_name(model, version)
        with self._lock:
            self._models.store(FakeVersion(model, version, archive, answer))
        return archive

    def fail(self, model: str, failure: FakeFailure, *, times: int = 1) -> None:
        """Make the next `times` requests of a model fail, after the failures set before."""
        with self._lock:
            self._failures[model] += [failure] * times

    def refuse(self, model: str, status: int, message: str, *, times: int = 1) -> None:
        """Make the next `times` requests of a model get a handler's error: 400, 413, 422, 500."""
        with self._lock:
            self._failures[model] += [FakeError(status, "InputError", message)] * times

    def addresses(self) -> dict[str, str]:
        """Return the arguments of a Client for this server."""
        token = {} if self._token is None else {"token": self._token}
        return {"url": self.url, "management": self.url, "metrics": self.url, **token}

    def client(self, *, timeout: float | None = 10.0) -> Client:
        from vestal.client import Client

        addresses: dict[str, Any] = self.addresses()
        return Client(**addresses, timeout=timeout)

    def async_client(self, *, timeout: float | None = 10.0) -> AsyncClient:
        from vestal.client import AsyncClient

        addresses: dict[str, Any] = self.addresses()
        return AsyncClient(**addresses, timeout=timeout)

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def respond(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes] | None:
        """Return status, headers and body; None to reset the connection."""
        sent_headers = {"x-request-id": str(uuid.uuid4()), "content-type": "application/json"}
        parts = [unquote(part) for part in urlsplit(target).path.strip("/").split("/")]
        try:
            if parts == ["metrics"]:
                return 200, {**sent_headers, "content-type": "text/plain"}, self._models_page()
            if self._token is not None and headers.get("authorization") != f"Bearer {self._token}":
                raise FakeError(400, "InvalidKeyException", "Token Authorization failed.")
            if parts[0] in ("predictions", "explanations") and len(parts) in (2, 3):
                version = parts[2] if len(parts) == 3 else None
                return self._infer(
                    FakeRequest(parts[0], parts[1], version, body, headers), sent_headers
                )
            if parts[0] == "models":
                query = dict(parse_qsl(urlsplit(target).query))
                with self._lock:
                    status, document = self._models.manage(method, parts[1:], query)
                return status, sent_headers, json.dumps(document).encode()
            raise FakeError(404, "ResourceNotFoundException", "Requested resource is not found")
        except FakeError as refused:
            return (
                refused.status,
                sent_headers,
                _error(refused.status, refused.kind, refused.message),
            )

    def _models_page(self) -> bytes:
        with self._lock:
            return self._models.metrics_page().encode()

    def _infer(
        self, request: FakeRequest, sent_headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes] | None:
        with self._lock:
            self.requests.append(request)
            failures = self._failures[request.model]
            failure = failures.pop(0) if failures else None
            served = self._models.find(request.model, request.version)
            self._models.requests[served.model, served.version] += 1
        if not served.workers:
            raise FakeError(*no_worker(served))
        if failure is FakeFailure.SILENCE:
            self._ended.wait()
        if failure in (FakeFailure.SILENCE, FakeFailure.RESET):
            return None
        if isinstance(failure, FakeFailure):
            raise FakeError(*failure.value)
        if failure is None:
            status = 200
            sent_headers["content-type"], document = _handled(served, request)
        else:
            status = failure.status
            document = _error(status, failure.kind, failure.message, sent_headers["x-request-id"])
        sent_headers |= {"x-model-name": served.model, "x-model-version": served.version}
        for name in ("traceparent", "x-correlation-id"):
            if name in request.headers:
                sent_headers[name] = request.headers[name]
        return status, sent_headers, document


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def respond(self, *request: Any) -> tuple[int, dict[str, str], bytes] | None:
        return self._fake.respond(*request)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore callers that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.respond(self.command, self.path, headers, body)
        if answer is None:
            linger = b"\1\0\0\0\0\0\0\0"  # on, 0 seconds: closing resets the connection
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        status, sent_headers, document = answer
        self.send_response_only(status)
        for name, value in sent_headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(document)))
        if status >= 400:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(document)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = _respond  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep the test's output free of access logs."""


def _handled(served: FakeVersion, request: FakeRequest) -> tuple[str, bytes]:
    """Return content type and body; raises FakeError if the test's function raised."""
    try:
        answer = served.answer(request) if callable(served.answer) else served.answer
        if isinstance(answer, bytes):
            return "application/octet-stream", answer
        return "application/json", json.dumps(answer).encode()
    except Exception:
        traceback.print_exc()  # as in a worker's log
        raise FakeError(*FakeFailure.HANDLER_RAISED.value) from None


def _error(status: int, kind: str, message: str, request_id: str | None = None) -> bytes:
    document = {"code": status, "type": kind, "message": message}
    return json.dumps(document | ({"request_id": request_id} if request_id else {})).encode()
