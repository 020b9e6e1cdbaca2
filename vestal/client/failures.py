"""The errors that one call can end in, with all that is known of it."""

from __future__ import annotations

import os
import ssl

from vestal.client.context import Context
from vestal.client.errors import (
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    Facts,
    TokenError,
    TokenExpired,
    WorkerDied,
)
from vestal.client.steps import WAITING, Broken, Call, Reply
from vestal.client.tokens import KeyFile, NoToken, Plane
from vestal.client.tracing import CORRELATION_ID
from vestal.client.verdicts import failure, from_handler, named

_DIRECTLY = "Add the host to NO_PROXY to call it without the proxy"


class Failures:
    """`last`: what the attempt before ended in."""

    def __init__(self, call: Call, base: str, context: Context) -> None:
        self._call = call
        self._base = base
        self._place = context.place(base)
        self._context = context
        self._named = named(call.model, call.version)
        self.last: ClientError | None = None

    def reply(self, reply: Reply, attempts: int) -> ClientError:
        """What an answer says that is none."""
        error = failure(reply, url=self._place, known=self._facts(attempts))
        if self._base in self._context.proxies and not (error.server_type or from_handler(reply)):
            error.facts = error.facts._replace(hint=f"{_DIRECTLY}, if the proxy is what answered")
        return error

    def broken(self, broken: Broken, attempts: int, hint: str | None = None) -> ConnectionFailed:
        hint = hint or _hint_for(broken)
        reason = _reason(broken.error)
        error = ConnectionFailed(
            f"{self._named}{self._place}, {broken.phase}: {reason}", self._facts(attempts, hint)
        )
        error.__cause__ = broken.error
        return error

    def never_reached(self, broken: Broken, attempts: int) -> ConnectionFailed:
        """Every connection was refused, from the first one on."""
        proxy = self._context.proxies.get(self._base)
        if proxy is not None:
            what = f"{self._place} cannot be reached: {_reason(broken.error)}"
            hint = f"Is the proxy right? {_DIRECTLY}"
        elif isinstance(broken.error, ConnectionRefusedError):
            what = f"nothing listens at {self._base}; is the server running there?"
            hint = "Start it (`vestal serve`), or pass the address and port where it listens"
        else:
            what = f"{self._base} cannot be reached: {_reason(broken.error)}"
            hint = "Is the host in this address right, and its network up?"
        error = ConnectionFailed(f"{self._named}{what}", self._facts(attempts, hint))
        error.__cause__ = broken.error
        return error

    def worker_died(self, last: ClientError, attempts: int) -> WorkerDied:
        hint = (
            "This input may be what kills the worker, or it takes longer than responseTimeout: "
            "see the model's log"
        )
        return WorkerDied(
            f"{self._named}the worker died, or the connection broke, twice with this request in "
            f"work (last: {last.args[0]})",
            self._facts(attempts, hint, of=last),
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
        if phase == WAITING and self._call.plane == "inference":
            # TorchServe queues requests for a model that failed to load, and never answers them.
            hint = "client.ready(model) says whether its workers are up; timeout= gives more time"
        if self._call.model is not None:
            served = self._call.model, self._call.version
            hint = self._context.shared.lines.states.get(served, hint)
        return DeadlineExceeded(text, self._facts(attempts, hint, of=self.last))

    def token_refused(self, reply: Reply, attempts: int) -> TokenError:
        tokens, plane = self._context.tokens, self._call.plane
        expired = tokens.expired(plane)
        # TorchServe has two keys, and says nothing of which one it wants.
        hint = f"It must be the {plane} key of the server's key_file.json"
        if isinstance(tokens, NoToken):
            hint = "Give token= or key_file=, or set VESTAL_TOKEN"
        elif expired and isinstance(tokens, KeyFile):
            hint = _why_not_renewed(tokens, plane, self._context)
        elif expired:
            hint = "Give the server's key_file.json instead: what changes there is read again"
        facts = self._facts(attempts, hint)._replace(
            status=reply.status,
            request_id=reply.headers.get("x-request-id"),
        )
        if isinstance(tokens, NoToken):
            return TokenError(f"{self._place} asks for a token, and this client has none", facts)
        kind = TokenExpired if expired else TokenError
        why = f"; {expired}" if expired else ""
        return kind(f"{self._place} refused the token from {tokens.origin}{why}", facts)

    def _facts(
        self, attempts: int, hint: str | None = None, *, of: ClientError | None = None
    ) -> Facts:
        return (of.facts if of is not None else Facts())._replace(
            model=self._call.model,
            version=self._call.version,
            correlation_id=self._call.headers.get(CORRELATION_ID),
            attempts=attempts,
            retry_after=None,
            hint=hint,
        )


def _reason(error: BaseException) -> object:
    # asyncio has texts of its own; those of the system are better known.
    if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _why_not_renewed(tokens: KeyFile, plane: Plane, context: Context) -> str:
    if not tokens.has_ended(plane):
        return "Is it the file that this server writes, or a copy of it?"
    if context.addresses.management is None:
        return "This client cannot renew it without the management address: Client(management=...)"
    if tokens.renewing_key is None:
        return "This client cannot renew it: the file has no API key"
    if not tokens.renewable:
        return "It could not be renewed: is the file the one that this server writes, or a copy?"
    return "The server was asked for a new one, and did not make it: start it again"


def _hint_for(broken: Broken) -> str:
    if isinstance(broken.error, ssl.SSLError):
        return "Does that port speak HTTPS, with a certificate that this machine trusts?"
    if broken.final and broken.phase == "reading the answer":
        return "The response's length makes no sense: is a proxy in between?"
    return "Is a server running at that address?"
