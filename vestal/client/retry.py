"""Send one call, with retries and second copies, within its deadline.

retried until the deadline  connection refused (`vestal.client.reachability`) or broken before the
                            whole request was sent; 503 ServiceUnavailable
                            (`vestal.client.waiting_calls`); 429, 502, 504
retried once                "Worker died.", or a connection broken after the whole request was
                            sent: this input may kill workers, so one retry at a time
copied                      no response although the model usually responds much faster: the
                            server may have lost the request (`vestal.client.hedging`)
retried after an outage     404 for a model that responded before (`vestal.client.retry_state`)
never retried               a handler's response, any other status

A TorchServe that is stopping resets connections for a while, whatever the input. So after a broken
connection the client sends pings, and retries once the server responds to one.

Every retry draws on the client's budget (`vestal.client.backoff`), except for a renewed token.
"""

from __future__ import annotations

import math
import time
from urllib.parse import urlencode

from vestal.client import renewal
from vestal.client.backoff import Backoff
from vestal.client.base import CallContext
from vestal.client.classification import (
    Verdict,
    classify,
    from_handler,
    is_queue_full_or_without_workers,
    retry_after,
)
from vestal.client.errors import ClientError, TokenError
from vestal.client.failures import CallErrors
from vestal.client.flow import ApiCall, Flow, HTTPRequest, HTTPResponse, Outcome, TransportFailure
from vestal.client.hedging import HedgingPolicy, ResponseHistory
from vestal.client.reachability import GIVE_UP, PING, ConnectionTracker
from vestal.client.waiting_calls import ServedVersion, wait_in_line

BROKEN_WHILE_SENDING = 3  # uploads that the server or a proxy may reset before the call fails
SAME_DEATH = 1.0
"""Seconds within which the failures of two copies count as the death of one worker; a new worker
takes longer to start."""


def send(context: CallContext, call: ApiCall) -> Flow[HTTPResponse]:
    """Return the successful response; raises ClientError."""
    response, _ = yield from Attempts(call, context).run()
    return response


class Attempts:
    """The state of one call's retries."""

    def __init__(self, call: ApiCall, context: CallContext) -> None:
        self.call = call
        self.context = context
        self.base = context.addresses.of(call.api)
        self.deadline = context.deadline
        self.retried_once = False
        self._renewed_tokens = 0
        self._sent_secrets: set[str] = set(context.secrets)
        self._copy_error: ClientError | None = None  # from a copy whose worker died
        self._copy_died_at = 0.0
        self._ping_needed = False
        self._refused_tokens: set[str | None] = set()
        self._broken_while_sending = 0
        self._connection = ConnectionTracker(context.retry_state.reached, self.base)
        self._errors = CallErrors(call, self.base, context)
        self._backoff = Backoff(context, self._connection, self._errors)
        self._served: ServedVersion | None = None
        if call.api == "inference" and call.model is not None:
            self._served = call.model, call.version

    @property
    def count(self) -> int:
        """How often the request was sent, copies included."""
        return self._backoff.attempts

    def run(self) -> Flow[tuple[HTTPResponse, int]]:
        """Return the successful response and the number of attempts; raises ClientError."""
        while True:
            token = yield from renewal.current_token(self.context, self.call.api)
            if self.deadline.expired:
                raise self._errors.too_late("before it was sent", self.count)
            if self._ping_needed:
                yield from self._ping_until_up(token)
            self._backoff.attempts += 1
            outcome = yield from self._send(token)
            self._connection.record(outcome)
            if isinstance(outcome, TransportFailure):
                yield from self._recover(outcome)
                continue
            verdict = classify(outcome)
            if verdict is Verdict.SUCCESS:
                self._record_success(outcome)
                return outcome, self.count
            if verdict is Verdict.TOKEN:
                yield from self._replace_token(outcome, token)
                continue
            queued = self._served is not None and is_queue_full_or_without_workers(outcome)
            if self._served is not None and (queued or from_handler(outcome)):
                self.context.retry_state.outages.record_model(self._served[0])
            seconds = self._pause_after_response(outcome, verdict)
            if self._served is not None and queued:
                time_left = self._backoff.time_left
                yield from wait_in_line(self.context, self._served, seconds, time_left)
            else:
                yield from self._backoff.wait(seconds)

    def _send(self, token: str | None) -> Flow[Outcome]:
        self._copy_error = None
        gate = self.context.retry_state.suspect_gate
        model = self.call.model if self.retried_once else None
        acquired = model is not None and (yield from gate.acquire_slot(model, self.deadline))
        try:
            outcome: Outcome = yield self._with_hedging(self._request(token))
            return outcome
        finally:
            if model is not None and acquired:
                gate.release_slot(model)

    def _recover(self, failure: TransportFailure) -> Flow[None]:
        """Wait before the next attempt; raises if there is none."""
        if not self.deadline.expired:  # the deadline also breaks connections
            self.context.retry_state.outages.record_break()
        seconds = self._pause_after_failure(failure)
        if failure.refused and (left := (yield from self._connection.refused())) < math.inf:
            self._errors.last = self._errors.never_reached(failure, self.count)
            seconds = min(seconds, left)
        yield from self._backoff.wait(seconds)

    def _replace_token(self, response: HTTPResponse, refused: str | None) -> Flow[None]:
        """Find a token that was not refused yet; raises TokenError."""
        api, known = self.call.api, self._refused_tokens
        known.add(refused)
        if not (yield from renewal.find_other_token(self.context, api, known)):
            raise self._errors.token_refused(response, self.count)
        self._renewed_tokens += 1

    def _ping_until_up(self, token: str | None) -> Flow[None]:
        """Return when the server responds to a ping, with any status; raises if it does not."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        pings, began = 0, time.monotonic()
        while True:
            outcome = yield HTTPRequest("GET", self.base, "/ping", headers, limit=PING)
            if not isinstance(outcome, TransportFailure):
                break
            pings += 1
            assert self._errors.last is not None
            silent = self._connection.accepts_connections_only(outcome)
            if silent and time.monotonic() - began > GIVE_UP:
                hint = "It accepts connections, but sends no HTTP response: is the port right?"
                raise self._errors.from_transport_failure(outcome, self.count, hint)
            yield from self._backoff.wait(
                self._backoff.pause_after(self._errors.last, failures=pings)
            )
        self._ping_needed = False

    def _request(self, token: str | None) -> HTTPRequest:
        headers = dict(self.call.headers)
        if token is not None:
            self._sent_secrets.add(token)
            headers["Authorization"] = f"Bearer {token}"
        query = f"?{urlencode(self.call.query)}" if self.call.query else ""
        target = self.call.path + query
        return HTTPRequest(self.call.method, self.base, target, headers, self.call.body)

    def _with_hedging(self, request: HTTPRequest) -> HTTPRequest:
        history = self._history()
        if history is None or not self.context.hedge:
            return request
        return request._replace(hedging=HedgingPolicy(self, history))

    def _history(self) -> ResponseHistory | None:
        """Return the recent responses to such calls; None unless it is an inference call."""
        return None if self._served is None else self.context.retry_state.history(self.call.path)

    def copy(self) -> HTTPRequest | None:
        """Return a further copy of the request in flight; None if it may not be sent now."""
        if not self._has_retries_left or self.context.retry_state.budget.spend(0) is None:
            return None
        try:
            token = self.context.tokens.get(self.call.api)  # it may have been renewed
        except TokenError:
            return None
        self._backoff.attempts += 1
        self.context.span.event("second copy", attempts=self.count)
        return self._request(token)

    def record_failed_copy(self, outcome: Outcome) -> bool:
        """Record that one copy failed while another is in flight; True if more may be sent."""
        if isinstance(outcome, TransportFailure):
            self._errors.last = self._errors.from_transport_failure(outcome, self.count)
            return not outcome.final
        self._errors.last = self._response_error(outcome)
        verdict = classify(outcome)
        if verdict is not Verdict.RETRY_ONCE:
            return verdict is Verdict.RETRY and retry_after(outcome) is None
        first = not self.retried_once and self._copy_error is None
        self._copy_error, self._copy_died_at = self._errors.last, time.monotonic()
        return first

    def _pause_after_response(self, response: HTTPResponse, verdict: Verdict) -> float:
        """Return the seconds to pause before the next attempt; raises if there is none."""
        error = self._response_error(response)
        if verdict is Verdict.NOT_FOUND and self._has_retries_left and self._may_come_back():
            return self._backoff.pause_after(error)
        if verdict in (Verdict.FINAL, Verdict.NOT_FOUND):
            self.context.retry_state.budget.earn()
            if self._served is not None and verdict is Verdict.FINAL:
                self.context.retry_state.waiting_calls.record_response(self._served)
            raise error
        if verdict is Verdict.RETRY_ONCE or self._copy_error:
            if self._copy_error and time.monotonic() - self._copy_died_at > SAME_DEATH:
                self._use_single_retry(self._copy_error)  # another worker died before
            self._use_single_retry(self._copy_error or error)
        elif response.status in (502, 504) and not self.call.repeatable:
            raise error  # sent by a proxy: the server behind it may have acted
        if not self._has_retries_left:
            raise error
        return self._backoff.pause_after(error, server_pause=retry_after(response))

    def _response_error(self, response: HTTPResponse) -> ClientError:
        for secret in self._sent_secrets:  # a server or proxy may quote what it received
            response = response.without(secret)
        return self._errors.from_response(response, self.count)

    def _record_success(self, response: HTTPResponse) -> None:
        state = self.context.retry_state
        self.context.tokens.accepted(self.call.api)
        state.budget.earn()
        if self._served is not None:
            state.outages.record_model(self._served[0])
            state.waiting_calls.record_response(self._served)
        if history := self._history():
            history.record(response.sent)

    def _may_come_back(self) -> bool:
        """Whether the model may be missing only because the server has just been restarted."""
        outages = self.context.retry_state.outages
        return self._served is not None and outages.broke_since_known(self._served[0])

    def _pause_after_failure(self, failure: TransportFailure) -> float:
        """Return the seconds to pause before the next attempt; raises if there is none."""
        if self.deadline.expired:
            raise self._errors.too_late(failure.phase, self.count, failure.error)
        error = self._errors.from_transport_failure(failure, self.count)
        if failure.final:
            raise error
        if failure.sent:
            if not self.call.repeatable:
                hint = "The server may have acted on the request; check before you send it again"
                raise self._errors.from_transport_failure(failure, self.count, hint)
            self._use_single_retry(self._copy_error or error)
            self._ping_needed = True
        elif self._copy_error:
            self._use_single_retry(self._copy_error)
        elif failure.phase != "connecting":
            self._broken_while_sending += 1
            if self._broken_while_sending == BROKEN_WHILE_SENDING:
                hint = "The input may be too large for the server (max_request_size) or a proxy"
                raise self._errors.from_transport_failure(failure, self.count, hint)
        if not self._has_retries_left:
            if failure.refused and self.base not in self.context.retry_state.reached.connected:
                raise self._errors.never_reached(failure, self.count)
            raise error
        return self._backoff.pause_after(error)

    @property
    def _has_retries_left(self) -> bool:
        """Whether `retries` allows another attempt; a renewed token does not count."""
        limit = self.context.retries
        return limit is None or self.count - 1 - self._renewed_tokens < limit

    def _use_single_retry(self, error: ClientError) -> None:
        if not self.call.repeatable:
            raise error
        if self.retried_once:
            raise self._errors.worker_died(error, self.count) from error
        self.retried_once = True
