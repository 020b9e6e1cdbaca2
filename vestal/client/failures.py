"""Create the error of a call from a response or a transport failure."""

from __future__ import annotations

import os
import re
import ssl

from vestal.client.base import CallContext
from vestal.client.classification import error_body, from_handler, retry_after
from vestal.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    ErrorDetails,
    NotFound,
    Overloaded,
    RequestRefused,
    ServerFailed,
    TokenError,
    TokenExpired,
    TooLarge,
    WorkerDied,
)
from vestal.client.flow import WAITING, ApiCall, HTTPResponse, TransportFailure
from vestal.client.tokens import Api, KeyFile, NoToken
from vestal.client.tracing import CORRELATION_ID

_REGISTERED = re.compile(r"version (\S+) is already registered for model (\S+?)\.?$")
_DIRECTLY = "Add the host to NO_PROXY to call it without the proxy"


class CallErrors:
    """Creates the errors of one call. `last`: of the previous attempt."""

    def __init__(self, call: ApiCall, base: str, context: CallContext) -> None:
        self._call = call
        self._base = base
        self._place = context.place(base)
        self._context = context
        self._named = name_prefix(call.model, call.version)
        self.last: ClientError | None = None

    def from_response(self, response: HTTPResponse, attempts: int) -> ClientError:
        """Create the error of an unsuccessful response."""
        error = response_error(response, url=self._place, known=self._details(attempts))
        if self._base in self._context.proxies and not (
            error.server_type or from_handler(response)
        ):
            error.details = error.details._replace(
                hint=f"{_DIRECTLY}, if the proxy is what answered"
            )
        return error

    def from_transport_failure(
        self, failure: TransportFailure, attempts: int, hint: str | None = None
    ) -> ConnectionFailed:
        hint = hint or _hint_for(failure)
        reason = _reason(failure.error)
        error = ConnectionFailed(
            f"{self._named}{self._place}, {failure.phase}: {reason}", self._details(attempts, hint)
        )
        error.__cause__ = failure.error
        return error

    def never_reached(self, failure: TransportFailure, attempts: int) -> ConnectionFailed:
        """Create the error of a call whose every connection was refused."""
        proxy = self._context.proxies.get(self._base)
        if proxy is not None:
            what = f"{self._place} cannot be reached: {_reason(failure.error)}"
            hint = f"Is the proxy right? {_DIRECTLY}"
        elif isinstance(failure.error, ConnectionRefusedError):
            what = f"nothing listens at {self._base}; is the server running there?"
            hint = "Start it (`vestal serve`), or pass the address and port where it listens"
        else:
            what = f"{self._base} cannot be reached: {_reason(failure.error)}"
            hint = "Is the host in this address right, and its network up?"
        error = ConnectionFailed(f"{self._named}{what}", self._details(attempts, hint))
        error.__cause__ = failure.error
        return error

    def worker_died(self, last: ClientError, attempts: int) -> WorkerDied:
        hint = (
            "This input may be what kills the worker, or it takes longer than responseTimeout: "
            "see the model's log"
        )
        return WorkerDied(
            f"{self._named}the worker died, or the connection broke, twice with this request in "
            f"work (last: {last.args[0]})",
            self._details(attempts, hint, of=last),
        )

    def too_late(self, phase: str, attempts: int) -> DeadlineExceeded:
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        if phase == "before it was sent" and attempts:
            phase += " again"
        last = f"; before that: {self.last.args[0]}" if self.last else ""
        text = (
            f"{self._named}no answer from {self._place} within "
            f"{self._context.deadline.seconds:g} s ({phase}, {tries}){last}"
        )
        hint = None
        if phase == WAITING and self._call.api == "inference":
            # TorchServe queues requests for a model that failed to load, and never answers them.
            hint = "client.ready(model) shows whether its workers are up; pass a longer timeout="
        if self._call.model is not None:
            served = self._call.model, self._call.version
            hint = self._context.retry_state.waiting_calls.states.get(served, hint)
        return DeadlineExceeded(text, self._details(attempts, hint, of=self.last))

    def token_refused(self, response: HTTPResponse, attempts: int) -> TokenError:
        tokens, api = self._context.tokens, self._call.api
        expired = tokens.expired(api)
        # TorchServe has two keys, and its response does not tell which one it expected.
        hint = f"It must be the {api} key of the server's key_file.json"
        if isinstance(tokens, NoToken):
            hint = "Pass token= or key_file=, or set VESTAL_TOKEN"
        elif expired and isinstance(tokens, KeyFile):
            hint = _why_not_renewed(tokens, api, self._context)
        elif expired:
            hint = "Give the server's key_file.json instead: what changes there is read again"
        details = self._details(attempts, hint)._replace(
            status=response.status,
            request_id=response.headers.get("x-request-id"),
        )
        if isinstance(tokens, NoToken):
            return TokenError(f"{self._place} asks for a token, and this client has none", details)
        kind = TokenExpired if expired else TokenError
        why = f"; {expired}" if expired else ""
        return kind(f"{self._place} refused the token from {tokens.origin}{why}", details)

    def _details(
        self, attempts: int, hint: str | None = None, *, of: ClientError | None = None
    ) -> ErrorDetails:
        return (of.details if of is not None else ErrorDetails())._replace(
            model=self._call.model,
            version=self._call.version,
            correlation_id=self._call.headers.get(CORRELATION_ID),
            attempts=attempts,
            retry_after=None,
            hint=hint,
        )


def _reason(error: BaseException) -> object:
    # asyncio has its own messages; those of the system are better known.
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
        return "It could not be renewed: is the file the one that this server writes, or a copy?"
    return "The server was asked for a new one, and did not make it: start it again"


def _hint_for(failure: TransportFailure) -> str:
    if isinstance(failure.error, ssl.SSLError):
        return "Does that port speak HTTPS, with a certificate that this machine trusts?"
    if failure.final and failure.phase == "reading the answer":
        return "The response's length makes no sense: is a proxy in between?"
    return "Is a server running at that address?"


def response_error(response: HTTPResponse, *, url: str, known: ErrorDetails) -> ClientError:
    """Create the error of a final response; `known`: the details of the call."""
    kind, message, request_id = error_body(response)
    details = known._replace(
        status=response.status,
        server_type=kind or None,
        server_message=message,
        request_id=request_id,
        retry_after=retry_after(response),
        hint=_hint(response.status, kind, message),
    )
    tries = "1 attempt" if known.attempts == 1 else f"{known.attempts} attempts"
    text = (
        f"{name_prefix(known.model, known.version)}{url} answered {response.status}"
        f"{f' {kind}' if kind else ''}: {message.rstrip('.')} "
        f"(request {request_id or 'without id'}, {tries})"
    )
    return _kind(response, kind)(text, details)


def name_prefix(model: str | None, version: str | None) -> str:
    """Return `mnist 1.0: `, the start of an error message."""
    return f"{model}{f' {version}' if version else ''}: " if model else ""


def _kind(response: HTTPResponse, kind: str) -> type[ClientError]:
    status = response.status
    if status == 429 or (status == 503 and kind in ("", "ServiceUnavailableException")):
        return Overloaded
    if status >= 500:
        return ServerFailed
    if kind == "InvalidModelVersionException":
        return Conflict  # with 403, which a proxy sends for other reasons
    by_status = {404: NotFound, 409: Conflict, 413: TooLarge}
    return by_status.get(status, RequestRefused)


def _hint(status: int, kind: str, message: str) -> str | None:
    if status < 400:
        return "A redirect is not followed, since the token would go with it: give that address"
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
    if status == 409 and (there := _REGISTERED.search(message)):
        version, model = there.groups()
        return (
            f'client.wait_ready("{model}", "{version}") waits until it is ready; to replace it, '
            "unregister it first or pack a new version"
        )
    if status == 405:
        return "TorchServe's model API may be off: it needs enable_model_api=true"
    if status == 413 and not kind:
        return (
            "The server takes at most max_request_size bytes: 20 MB with Vestal's "
            "config.properties, 6.5 MB in a TorchServe without it"
        )
    if kind == "ServiceUnavailableException":
        return (
            "Its queue is full or it has no worker (client.describe(model) shows both); "
            "client.scale(model, 1) starts a worker"
        )
    if status == 422:
        return "This model does not take inputs of this form; see its handler's transforms"
    if status in (502, 504):
        return "A proxy sent this: is the server behind it up, and fast enough for the proxy?"
    if "Prediction failed" in message:
        return "The handler raised; with a batch, a neighbour's input may be why: see its log"
    return None
