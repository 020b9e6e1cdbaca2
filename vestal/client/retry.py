"""One call, sent as often as is worth it, within its deadline.

worth it until the deadline   the connection was refused, or broke before all was sent; 503
                              ServiceUnavailable; 429, 502, 504
worth it once                 "Worker died.", or a break after all was sent: the input may be what
                              kills the worker
never                         a handler's verdict, any other status
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from vestal.client.calls import Call
from vestal.client.deadline import Deadline
from vestal.client.errors import (
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    Facts,
    TokenError,
    TokenExpired,
    WorkerDied,
)
from vestal.client.settings import Addresses
from vestal.client.steps import Broken, Pause, Reply, Request, Steps
from vestal.client.tokens import NoToken, Tokens
from vestal.client.verdicts import Verdict, failure, judge, named, retry_after

BASE, FACTOR, CAP = 0.1, 2.0, 2.0
"""Seconds: the n-th pause is anything from 0 to min(CAP, BASE * FACTOR**n): full jitter."""
BROKEN_WHILE_SENDING = 3
"""A server that resets every upload (too large, a proxy) will not take the next one either."""
LAST_TRY = 0.02
"""Seconds: with less than this left, another attempt would end at the deadline unanswered."""
WITHOUT_DEADLINE = 10
"""Attempts of a call that was given no deadline."""


def backoff(failures: int) -> float:
    """Seconds to pause after so many failures (1 or more)."""
    return random.uniform(0, min(CAP, BASE * FACTOR ** (failures - 1)))


@dataclass(frozen=True)
class Context:
    """What all requests of one call share.

    `patient`: False for a question about this very moment (is it ready?): no retries.
    """

    addresses: Addresses
    tokens: Tokens
    deadline: Deadline
    patient: bool = True

    def impatient(self) -> Context:
        return replace(self, patient=False)

    def send(self, call: Call) -> Steps[Reply]:
        """The answer; raises ClientError."""
        reply, _ = yield from self.send_counted(call)
        return reply

    def send_counted(self, call: Call) -> Steps[tuple[Reply, int]]:
        """The answer and how often the request was sent; raises ClientError."""
        return (yield from Attempts(call, self).run())


class Attempts:
    """The state of one call's retries."""

    def __init__(self, call: Call, context: Context) -> None:
        self.call = call
        self.base = context.addresses.of(call.plane)
        self.tokens = context.tokens
        self.deadline = context.deadline
        self.patient = context.patient
        self.count = 0
        self.once_used = False
        self.token_renewed = False
        self.broken_while_sending = 0
        self.last: ClientError | None = None

    def run(self) -> Steps[tuple[Reply, int]]:
        while True:
            token = self.tokens.get(self.call.plane)
            if self.deadline.expired:
                raise self.too_late("before it was sent")
            self.count += 1
            outcome = yield self.request(token)
            if isinstance(outcome, Reply):
                verdict = judge(outcome)
                if verdict is Verdict.ANSWER:
                    return outcome, self.count
                pause = self.after_reply(outcome, verdict, token)
            else:
                assert isinstance(outcome, Broken)
                pause = self.after_break(outcome)
            if pause:
                yield Pause(pause)

    def request(self, token: str | None) -> Request:
        headers = dict(self.call.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        query = f"?{urlencode(self.call.query)}" if self.call.query else ""
        url = self.base + self.call.path + query
        return Request(self.call.method, url, headers, self.call.body)

    def after_reply(self, reply: Reply, verdict: Verdict, token: str | None) -> float:
        """Seconds to pause before the next attempt; raises where there is none."""
        if verdict is Verdict.TOKEN:
            if not self.token_renewed and self.tokens.renew(self.call.plane, token):
                self.token_renewed = True
                return 0.0
            raise self.token_refused(reply)
        error = failure(
            reply,
            url=self.base,
            model=self.call.model,
            version=self.call.version,
            attempts=self.count,
        )
        if verdict is Verdict.FINAL or not self.patient:
            raise error
        if verdict is Verdict.RETRY_ONCE:
            self.use_once(error)
        elif reply.status in (502, 504) and not self.call.repeatable:
            raise error  # a proxy's word: the server behind it may have acted
        return self.pause(error, retry_after(reply))

    def after_break(self, broken: Broken) -> float:
        error: ClientError
        reason = getattr(broken.error, "strerror", None) or broken.error
        text = f"{named(self.call.model, self.call.version)}{self.base}, {broken.phase}: {reason}"
        if self.deadline.expired:
            raise self.too_late(broken.phase) from (self.last or broken.error)
        error = ConnectionFailed(text, self.facts(hint="Is a server running at that address?"))
        error.__cause__ = broken.error
        if broken.final or not self.patient:
            raise error
        if broken.sent:
            if not self.call.repeatable:
                hint = "The server may have done it all the same: look before you try again"
                raise ConnectionFailed(text, self.facts(hint=hint)) from broken.error
            self.use_once(error)
        elif broken.phase != "connecting":
            self.broken_while_sending += 1
            if self.broken_while_sending == BROKEN_WHILE_SENDING:
                hint = "Is it too large for the server (max_request_size) or a proxy before it?"
                raise ConnectionFailed(text, self.facts(hint=hint)) from broken.error
        return self.pause(error, None)

    def use_once(self, error: ClientError) -> None:
        if not self.call.repeatable:
            raise error
        if self.once_used:
            raise WorkerDied(
                f"{named(self.call.model, self.call.version)}the worker died, or the connection "
                f"broke, twice with this request in work (last: {error.args[0]})",
                self.facts(
                    of=error,
                    hint="This input may be what kills the worker, or it takes longer than "
                    "responseTimeout: see the model's log",
                ),
            ) from error
        self.once_used = True

    def pause(self, error: ClientError, asked: float | None) -> float:
        self.last = error
        seconds = max(backoff(self.count), asked or 0.0)
        if self.deadline.seconds is None:
            if self.count >= WITHOUT_DEADLINE:
                raise error
            return seconds
        if asked is not None and asked >= self.deadline.remaining():
            raise error
        left = self.deadline.remaining()
        if left < LAST_TRY:
            raise self.too_late("waiting to try again") from error
        return max(asked or 0.0, min(seconds, left / 2))

    def too_late(self, phase: str) -> DeadlineExceeded:
        tries = "1 attempt" if self.count == 1 else f"{self.count} attempts"
        last = f"; before that: {self.last.args[0]}" if self.last else ""
        text = (
            f"{named(self.call.model, self.call.version)}no answer from {self.base} within "
            f"{self.deadline.seconds:g} s ({phase}, {tries}){last}"
        )
        hint = None
        if phase == "waiting for the answer" and self.call.plane == "inference":
            # TorchServe queues requests for a model that failed to load, and never answers them.
            hint = "client.ready(model) says whether its workers are up; timeout= gives more time"
        return DeadlineExceeded(text, self.facts(of=self.last, hint=hint))

    def token_refused(self, reply: Reply) -> TokenError:
        expired = self.tokens.expired(self.call.plane)
        kind = TokenExpired if expired else TokenError
        when = f"; it expired at {expired}" if expired else ""
        # TorchServe has two keys, and says nothing of which one it wants.
        hint = f"It must be the {self.call.plane} key of the server's key_file.json"
        if isinstance(self.tokens, NoToken):
            hint = "Give token= or key_file=, or set VESTAL_TOKEN"
        if expired:
            hint = "The server must be asked for a new key, or started again"
        facts = self.facts(reply=reply, hint=hint)
        if isinstance(self.tokens, NoToken):
            return TokenError(f"{self.base} asks for a token, and this client has none", facts)
        return kind(f"{self.base} refused the token from {self.tokens.origin}{when}", facts)

    def facts(
        self,
        *,
        of: ClientError | None = None,
        reply: Reply | None = None,
        hint: str | None = None,
    ) -> Facts:
        known = of.facts if of is not None else Facts()
        status, request_id = known.status, known.request_id
        if reply is not None:
            status, request_id = reply.status, reply.headers.get("x-request-id")
        return Facts(
            model=self.call.model,
            version=self.call.version,
            status=status,
            server_type=known.server_type,
            server_message=known.server_message,
            request_id=request_id,
            attempts=self.count,
            hint=hint,
        )
