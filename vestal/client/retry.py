"""One call, sent as often as is worth it, within its deadline.

worth it until the deadline   the connection was refused (`vestal.client.reached`), or broke before
                              all was sent; 503 ServiceUnavailable (`vestal.client.pace`); 429, 502,
                              504
worth it once                 "Worker died.", or a break after all was sent: the input may be what
                              kills the worker
worth a second copy           no answer although answers of that model are much faster: the server
                              may have lost it (`vestal.client.copies`)
worth it after an outage      404 for a model that answered before (`vestal.client.shared`)
never                         a handler's verdict, any other status

Before the one more try after a break the server must give a sign of life: a TorchServe that is
being killed resets connections for a while, and the input is not to blame for that.

Every retry draws on the client's budget (`vestal.client.shared`) and waits for it, but for the one
with another token.
"""

from __future__ import annotations

import math
import random
import time
from urllib.parse import urlencode

from vestal.client import renewal
from vestal.client.context import Context
from vestal.client.copies import Copies
from vestal.client.deadline import LONGEST
from vestal.client.errors import ClientError, TokenError
from vestal.client.failures import Failures
from vestal.client.pace import Served, wait_in_line
from vestal.client.reached import GIVE_UP, PING, Contact
from vestal.client.recent import Recent
from vestal.client.steps import Broken, Call, Pause, Reply, Request, Steps
from vestal.client.verdicts import Verdict, from_handler, full_or_idle, judge, retry_after

BASE, FACTOR, CAP = 0.1, 2.0, 2.0
"""Seconds: the n-th pause is anything from 0 to min(CAP, BASE * FACTOR**n): full jitter."""
BROKEN_WHILE_SENDING = 3
"""A server that resets every upload (too large, a proxy) will not take the next one either."""
LAST_TRY = 0.02
"""Seconds: with less than this left, another attempt would end at the deadline unanswered."""
WITHOUT_DEADLINE = 10
"""Attempts of a call that was given no deadline."""
TOGETHER = 1.0
"""Seconds within which copies of a request die by one worker's death: a new one takes longer."""
LOOK_AGAIN = 0.25
"""Seconds until a call that has no turn within its deadline looks for one again."""


def backoff(failures: int) -> float:
    """Seconds to pause after so many failures (1 or more)."""
    return random.uniform(0, min(CAP, BASE * FACTOR ** min(failures - 1, 30)))


def send(context: Context, call: Call) -> Steps[Reply]:
    """The answer; raises ClientError."""
    reply, _ = yield from Attempts(call, context).run()
    return reply


class Attempts:
    """The state of one call's retries."""

    def __init__(self, call: Call, context: Context) -> None:
        self.call = call
        self.context = context
        self.base = context.addresses.of(call.plane)
        self.deadline = context.deadline
        self.count = 0
        self.renewed_tokens = 0
        self.tokens: set[str] = set(context.secrets)
        self.once_used = False
        self.died: ClientError | None = None  # what one of an attempt's copies ended in
        self.died_at = 0.0
        self.sign_wanted = False
        self.refused: set[str | None] = set()
        self.broken_while_sending = 0
        self.contact = Contact(context.shared.reached, self.base)
        self.failed = Failures(call, self.base, context)
        self.served: Served | None = None
        if call.plane == "inference" and call.model is not None:
            self.served = call.model, call.version

    def run(self) -> Steps[tuple[Reply, int]]:
        """The answer and the number of attempts; raises ClientError."""
        plane = self.call.plane
        while True:
            token = yield from renewal.token(self.context, plane)
            if self.deadline.expired:
                raise self.failed.too_late("before it was sent", self.count)
            if self.sign_wanted:
                yield from self.sign_of_life(token)
            self.count += 1
            outcome = yield from self.send(token)
            self.contact.note(outcome)
            if isinstance(outcome, Broken):
                if not self.deadline.expired:  # else it is no word on the server
                    self.context.shared.outages.broke()
                seconds = self.after_break(outcome)
                if outcome.refused and (left := (yield from self.contact.refused())) < math.inf:
                    self.failed.last = self.failed.never_reached(outcome, self.count)
                    seconds = min(seconds, left)
                yield from self.wait(seconds)
                continue
            verdict = judge(outcome)
            if verdict is Verdict.ANSWER:
                self.answered(outcome)
                return outcome, self.count
            if verdict is Verdict.TOKEN:
                self.refused.add(token)
                if not (yield from renewal.another(self.context, plane, self.refused)):
                    raise self.failed.token_refused(outcome, self.count)
                self.renewed_tokens += 1
                continue
            queued = self.served is not None and full_or_idle(outcome)
            if self.served is not None and (queued or from_handler(outcome)):
                self.context.shared.outages.knows(self.served[0])
            seconds = self.after_reply(outcome, verdict)
            if self.served is not None and queued:
                yield from wait_in_line(self.context, self.served, seconds, self.time_left)
            else:
                yield from self.wait(seconds)

    def send(self, token: str | None) -> Steps[Reply | Broken]:
        self.died = None
        model = self.call.model
        if not self.once_used or model is None:
            outcome: Reply | Broken = yield self.with_copies(self.request(token))
            return outcome
        # It may be what killed a worker: not together with another one that may be, too.
        suspects = self.context.shared.suspects
        entered = yield from suspects.turn(model, self.deadline)
        try:
            outcome = yield self.with_copies(self.request(token))
            return outcome
        finally:
            if entered:
                suspects.leave(model)

    def sign_of_life(self, token: str | None) -> Steps[None]:
        """Returns when the server answers a ping, whatever it says; raises where it does not."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        pings, began = 0, time.monotonic()
        while True:
            outcome = yield Request("GET", self.base, "/ping", headers, limit=PING)
            if not isinstance(outcome, Broken):
                break
            pings += 1
            assert self.failed.last is not None
            if self.contact.takes_connections_only(outcome) and time.monotonic() - began > GIVE_UP:
                hint = "It takes connections, but sends no HTTP response: is the port right?"
                raise self.failed.broken(outcome, self.count, hint)
            yield from self.wait(self.pause(self.failed.last, None, pings))
        self.sign_wanted = False

    def request(self, token: str | None) -> Request:
        headers = dict(self.call.headers)
        if token is not None:
            self.tokens.add(token)
            headers["Authorization"] = f"Bearer {token}"
        query = f"?{urlencode(self.call.query)}" if self.call.query else ""
        target = self.call.path + query
        return Request(self.call.method, self.base, target, headers, self.call.body)

    def with_copies(self, request: Request) -> Request:
        recent = self.recent()
        if recent is None or not (self.context.hedge and self.context.patient):
            return request
        return request._replace(copies=Copies(self, recent))

    def recent(self) -> Recent | None:
        """The recent answers to such calls; None for a call that is no inference."""
        return None if self.served is None else self.context.shared.recent(self.call.path)

    def copy(self) -> Request | None:
        """A further copy of what is on its way; None where it may not go now."""
        if not self.has_retries_left or self.context.shared.budget.spend(0) is None:
            return None
        try:
            token = self.context.tokens.get(self.call.plane)  # it may be another one by now
        except TokenError:
            return None
        self.count += 1
        self.context.span.event("second copy", attempts=self.count)
        return self.request(token)

    def lost(self, outcome: Reply | Broken) -> bool:
        """Notes a copy that failed while another is on its way; may there be further ones?"""
        if isinstance(outcome, Broken):
            self.failed.last = self.failed.broken(outcome, self.count)
            return not outcome.final
        self.failed.last = self.failure(outcome)
        verdict = judge(outcome)
        if verdict is not Verdict.RETRY_ONCE:
            return verdict is Verdict.RETRY and retry_after(outcome) is None
        first = not self.once_used and self.died is None
        self.died, self.died_at = self.failed.last, time.monotonic()
        return first

    def after_reply(self, reply: Reply, verdict: Verdict) -> float:
        """Seconds to pause before the next attempt; raises where there is none."""
        error = self.failure(reply)
        if verdict is Verdict.NOT_FOUND and self.has_retries_left and self.may_come_back():
            return self.pause(error, None)
        if verdict in (Verdict.FINAL, Verdict.NOT_FOUND):
            self.context.shared.budget.earn()
            if self.served is not None and verdict is Verdict.FINAL:
                self.context.shared.lines.answered(self.served)
            raise error
        if not self.context.patient:
            raise error
        if verdict is Verdict.RETRY_ONCE or self.died:
            if self.died and time.monotonic() - self.died_at > TOGETHER:
                self.use_once(self.died)  # it was another worker's death
            self.use_once(self.died or error)
        elif reply.status in (502, 504) and not self.call.repeatable:
            raise error  # sent by a proxy: the server behind it may have acted
        if not self.has_retries_left:
            raise error
        return self.pause(error, retry_after(reply))

    def failure(self, reply: Reply) -> ClientError:
        for token in self.tokens:  # a server, or a proxy, may quote what it was sent
            reply = reply.without(token)
        return self.failed.reply(reply, self.count)

    def answered(self, reply: Reply) -> None:
        self.context.tokens.accepted(self.call.plane)
        self.context.shared.budget.earn()
        if self.served is not None:
            self.context.shared.outages.knows(self.served[0])
            self.context.shared.lines.answered(self.served)
        if recent := self.recent():
            recent.answered(reply.sent)

    def may_come_back(self) -> bool:
        """Is the model unknown since the server was started again, perhaps a moment ago?"""
        if self.served is None or not self.context.patient:
            return False
        return self.context.shared.outages.since_known(self.served[0])

    def after_break(self, broken: Broken) -> float:
        if self.deadline.expired:
            cause = self.failed.last or broken.error
            raise self.failed.too_late(broken.phase, self.count) from cause
        error = self.failed.broken(broken, self.count)
        if broken.final or not self.context.patient:
            raise error
        if broken.sent:
            if not self.call.repeatable:
                hint = "The server may have done it all the same: look before you try again"
                raise self.failed.broken(broken, self.count, hint)
            self.use_once(self.died or error)
            self.sign_wanted = True
        elif self.died:
            self.use_once(self.died)
        elif broken.phase != "connecting":
            self.broken_while_sending += 1
            if self.broken_while_sending == BROKEN_WHILE_SENDING:
                hint = "Is it too large for the server (max_request_size) or a proxy before it?"
                raise self.failed.broken(broken, self.count, hint)
        if not self.has_retries_left:
            if broken.refused and not self.context.shared.reached.has(self.base):
                raise self.failed.never_reached(broken, self.count)
            raise error
        return self.pause(error, None)

    @property
    def has_retries_left(self) -> bool:
        """Whether `retries` allows another attempt; a renewed token costs none."""
        limit = self.context.retries
        return limit is None or self.count - 1 - self.renewed_tokens < limit

    def use_once(self, error: ClientError) -> None:
        if not self.call.repeatable:
            raise error
        if self.once_used:
            raise self.failed.worker_died(error, self.count) from error
        self.once_used = True

    def pause(self, error: ClientError, asked: float | None, failures: int = 0) -> float:
        """`failures`: in a row, where they are not the attempts."""
        self.failed.last = error
        failures = failures or self.count
        self.context.span.event("retry", attempts=self.count, reason=str(error.args[0]))
        seconds = max(backoff(failures), asked or 0.0)
        if seconds > LONGEST:
            raise error
        if self.deadline.seconds is None:
            if failures >= WITHOUT_DEADLINE:
                raise error
            return seconds
        left = self.deadline.remaining()
        if asked is not None and asked >= left:
            raise error
        return max(asked or 0.0, min(seconds, left / 2))

    def time_left(self) -> float:
        """Seconds left for another attempt; raises where there are none."""
        left = self.deadline.remaining()
        if left < LAST_TRY:
            raise self.failed.too_late("waiting to try again", self.count) from self.failed.last
        until_given_up = self.contact.give_up_at - time.monotonic()
        if until_given_up <= 0:
            assert self.failed.last is not None
            raise self.failed.last
        return min(left, until_given_up)

    def wait(self, seconds: float) -> Steps[None]:
        """Pauses so long, and for the client's budget; raises where no time would be left."""
        while True:
            turn = self.context.shared.budget.spend(self.time_left())
            if turn is not None:
                break
            yield Pause(LOOK_AGAIN)
        try:
            if turn or seconds:
                yield Pause(max(turn, seconds))
        except BaseException:  # the call was cancelled: another one may have its turn
            self.context.shared.budget.refund()
            raise
