"""Create the error of a call from a response or a transport failure."""

from __future__ import annotations

import os
import re
import ssl
from typing import Any

from vestal.client import errors
from vestal.client.base import CallContext
from vestal.client.classification import error_body, from_handler, retry_after
from vestal.client.errors import ClientError
from vestal.client.flow import WAITING, ApiCall, HTTPResponse, TransportFailure
from vestal.client.tokens import Api, KeyFile, NoToken
from vestal.client.tracing import CORRELATION_ID

_REGISTERED = re.compile(r"version (\S+) is already registered for model (\S+?)\.?$")
_NO_PROXY = "Add the host to NO_PROXY to call it without the proxy"


class CallErrors:
    """Creates the errors of one call. `last`: the error of the previous attempt."""

    def __init__(self, call: ApiCall, base: str, context: CallContext) -> None:
        self._call = call
        self._base = base
        self._place = context.place(base)
        self._context = context
        self._prefix = name_prefix(call.model, call.version)
        self.last: ClientError | None = None

    def from_response(self, response: HTTPResponse, attempts: int) -> ClientError:
        """Create the error of an unsuccessful response."""
        kind, message, request_id = error_body(response)
        hint = _hint(response.status, kind, message)
        if self._base in self._context.proxies and not (kind or from_handler(response)):
            hint = f"{_NO_PROXY}, if the proxy sent this response"
        text = (
            f"{self._prefix}{self._place} answered {response.status}"
            f"{f' {kind}' if kind else ''}: {message.rstrip('.')} "
            f"(request {request_id or 'without id'}, {_times(attempts)})"
        )
        return _error_class(response.status, kind)(
            text,
            **self._details(attempts, hint),
            status=response.status,
            server_type=kind or None,
            server_message=message,
            request_id=request_id,
            retry_after=retry_after(response),
        )

    def from_transport_failure(
        self, failure: TransportFailure, attempts: int, hint: str | None = None
    ) -> errors.ConnectionFailed:
        text = f"{self._place}, {failure.phase}: {_reason(failure.error)}"
        return self._connection_failed(text, failure, attempts, hint or _hint_for(failure))

    def never_reached(self, failure: TransportFailure, attempts: int) -> errors.ConnectionFailed:
        """Create the error of a call whose connections were all refused."""
        text = f"{self._place} cannot be reached: {_reason(failure.error)}"
        hint = "Check the host in this address, and the network"
        if self._base in self._context.proxies:
            hint = f"Check the address of the proxy. {_NO_PROXY}"
        elif isinstance(failure.error, ConnectionRefusedError):
            text = f"nothing listens at {self._base}; is the server running there?"
            hint = "Start it (`vestal serve`), or pass the address and port where it listens"
        return self._connection_failed(text, failure, attempts, hint)

    def _connection_failed(
        self, text: str, failure: TransportFailure, attempts: int, hint: str
    ) -> errors.ConnectionFailed:
        error = errors.ConnectionFailed(self._prefix + text, **self._details(attempts, hint))
        error.__cause__ = failure.error
        return error

    def worker_died(self, last: ClientError, attempts: int) -> errors.WorkerDied:
        hint = (
            "This input may kill the worker, or take longer than responseTimeout: see the model's "
            "log"
        )
        return errors.WorkerDied(
            f"{self._prefix}the worker died, or the connection broke, twice while it processed "
            f"this request (last: {last.args[0]})",
            **self._details(attempts, hint),
            **_server_details(last),
        )

    def too_late(
        self, phase: str, attempts: int, cause: BaseException | None = None
    ) -> errors.DeadlineExceeded:
        """Create the error of a call without time; its cause is the last failure."""
        if phase == "before it was sent" and attempts:
            phase += " again"
        last = f"; before that: {self.last.args[0]}" if self.last else ""
        text = (
            f"{self._prefix}no answer from {self._place} within "
            f"{self._context.deadline.seconds:g} s ({phase}, {_times(attempts)}){last}"
        )
        hint = None
        if phase == WAITING and self._call.api == "inference":
            # TorchServe queues requests for a model that failed to load, and never responds.
            hint = "client.ready(model) shows whether its workers are up; pass a longer timeout="
        if self._call.model is not None:
            served = self._call.model, self._call.version
            hint = self._context.retry_state.waiting_calls.states.get(served, hint)
        details = {**self._details(attempts, hint), **_server_details(self.last)}
        error = errors.DeadlineExceeded(text, **details)
        error.__cause__ = self.last or cause
        return error

    def token_refused(self, response: HTTPResponse, attempts: int) -> errors.TokenError:
        tokens, api = self._context.tokens, self._call.api
        expired = tokens.expired(api)
        # TorchServe has two keys, and its response does not name the one it expected.
        hint = f"It must be the {api} key of the server's key_file.json"
        if isinstance(tokens, NoToken):
            hint = "Pass token= or key_file=, or set VESTAL_TOKEN"
        elif isinstance(tokens, KeyFile) and expired:
            hint = _why_not_renewed(tokens, api, self._context)
        elif expired:
            hint = "Pass the server's key_file.json instead; the client reads it again on changes"
        details = self._details(attempts, hint)
        details |= {
            "status": response.status,
            "request_id": response.headers.get("x-request-id"),
        }
        if isinstance(tokens, NoToken):
            text = f"{self._place} requires a token, and this client has none"
            return errors.TokenError(text, **details)
        kind = errors.TokenExpired if expired else errors.TokenError
        why = f"; {expired}" if expired else ""
        return kind(f"{self._place} refused the token from {tokens.origin}{why}", **details)

    def _details(self, attempts: int, hint: str | None) -> dict[str, Any]:
        return {
            "model": self._call.model,
            "version": self._call.version,
            "correlation_id": self._call.headers.get(CORRELATION_ID),
            "attempts": attempts,
            "hint": hint,
        }


def _server_details(error: ClientError | None) -> dict[str, Any]:
    names = ("status", "server_type", "server_message", "request_id")
    return {name: getattr(error, name, None) for name in names}


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _reason(error: BaseException) -> object:
    # asyncio has its own messages; those of the operating system are better known.
    if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _why_not_renewed(tokens: KeyFile, api: Api, context: CallContext) -> str:
    if not tokens.has_ended(api):
        return "Is it the file that this server writes, or a copy of it?"
    if context.addresses.management is None:
        return "This client cannot renew it without the management address: Client(management=...)"
    if tokens.renewing_key is None:
        return "This client cannot renew it: the file has no API key"
    if not tokens.renewable:
        return "The renewal failed: is it the file that this server writes, or a copy of it?"
    return "The server did not renew it on request: restart the server"


def _hint_for(failure: TransportFailure) -> str:
    if isinstance(failure.error, ssl.SSLError):
        return "Does that port use HTTPS, with a certificate that this machine trusts?"
    if failure.final and failure.phase == "reading the answer":
        return "The length of the response is invalid: is a proxy in between?"
    return "Is a server running at that address?"


def name_prefix(model: str | None, version: str | None) -> str:
    """Return `mnist 1.0: `, the start of an error message."""
    return f"{model}{f' {version}' if version else ''}: " if model else ""


def _error_class(status: int, kind: str) -> type[ClientError]:
    if status == 429 or (status == 503 and kind in ("", "ServiceUnavailableException")):
        return errors.Overloaded
    if status >= 500:
        return errors.ServerFailed
    if kind == "InvalidModelVersionException":
        return errors.Conflict  # its status is 403, which a proxy sends for other reasons
    by_status = {404: errors.NotFound, 409: errors.Conflict, 413: errors.TooLarge}
    return by_status.get(status, errors.RequestRefused)


def _hint(status: int, kind: str, message: str) -> str | None:
    if status < 400:
        return "Redirects are not followed, since they would receive the token: pass that address"
    if message.startswith("Model not found at"):
        return "The archive must be a file in the server's model store"
    if kind.startswith("Model") and kind.endswith("NotFoundException"):
        return "client.models() lists the served versions"
    if kind == "ResourceNotFoundException":
        return (
            "No such path at this port: inference is usually at 8080, management at 8081, metrics "
            "at 8082"
        )
    if "Cannot remove default version" in message:
        return "Make another version the default first: client.set_default(model, version)"
    if status == 409 and (registered := _REGISTERED.search(message)):
        version, model = registered.groups()
        return (
            f'client.wait_ready("{model}", "{version}") waits until it is ready; to replace it, '
            "unregister it first or pack a new version"
        )
    if status == 405:
        return "TorchServe's model API may be off: it needs enable_model_api=true"
    if status == 413 and not kind:
        return (
            "The limit is max_request_size in the server's config.properties (20,000,000 bytes in "
            "Vestal's, 6,553,500 by TorchServe's default)"
        )
    if kind == "ServiceUnavailableException":
        return (
            "Its queue is full or it has no worker (client.describe(model) shows both); "
            "client.scale(model, 1) starts a worker"
        )
    if status in (502, 504):
        return "A proxy sent this: is the server behind it up, and fast enough for the proxy?"
    if "Prediction failed" in message:
        return "The handler raised an error, perhaps for another input of the batch: see its log"
    return None
