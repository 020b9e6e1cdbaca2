"""Trace headers of inference calls (W3C `traceparent`, `x-correlation-id`), OpenTelemetry spans.

Vestal's handlers return and log both headers. If the program has imported OpenTelemetry, every call
is a client span and `traceparent` names it; this module does not import OpenTelemetry.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NamedTuple

from vestal.errors import UsageError

TRACEPARENT, CORRELATION_ID = "traceparent", "x-correlation-id"
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_CORRELATION_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Span:
    """The OpenTelemetry span of a call. Without one, its methods do nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def traceparent(self) -> str | None:
        """Return the header that names this span; None without a valid span."""
        context = None if self._span is None else self._span.get_span_context()
        if context is None or not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def event(self, name: str, **attributes: str | int | float) -> None:
        if self._span is not None:
            self._span.add_event(name, attributes)

    def end(self, error: BaseException | None) -> None:
        if self._span is None:
            return
        if error is not None:
            status = sys.modules["opentelemetry.trace"].StatusCode.ERROR
            self._span.record_exception(error)
            self._span.set_status(status, str(error))
            self._span.set_attribute("error.type", type(error).__qualname__)
        self._span.end()


NO_SPAN = Span()


def start_span(operation: str, model: str | None, traceparent: str | None) -> Span:
    """Start a client span, `vestal.predict mnist`; its parent is `traceparent`, if passed."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return NO_SPAN
    parent = None
    if traceparent is not None:
        _, trace_id, span_id, flags = check_traceparent(traceparent).split("-")
        remote = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
        )
        parent = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    name = f"vestal.{operation} {model}" if model else f"vestal.{operation}"
    attributes = {"vestal.operation": operation, **({"vestal.model": model} if model else {})}
    tracer = trace.get_tracer("vestal")
    kind = trace.SpanKind.CLIENT
    return Span(tracer.start_span(name, context=parent, kind=kind, attributes=attributes))


class Trace(NamedTuple):
    """The two headers of a call, as the client sent them."""

    traceparent: str
    correlation_id: str

    def headers(self) -> dict[str, str]:
        return {TRACEPARENT: self.traceparent, CORRELATION_ID: self.correlation_id}


def make_trace(span: Span, traceparent: str | None, correlation_id: str | None) -> Trace:
    """Return the caller's headers, or a new trace whose id is also the correlation id.

    Raises UsageError for an invalid header.
    """
    if correlation_id is not None and not _matches(_CORRELATION_ID, correlation_id):
        raise UsageError(
            f"correlation_id is {correlation_id!r}: expected 1 to 128 visible ASCII characters"
        )
    parent = span.traceparent()
    if parent is None and traceparent is not None:
        parent = check_traceparent(traceparent)
    if parent is None:
        random = os.urandom(24).hex()
        parent = f"00-{random[:32]}-{random[32:]}-00"
    return Trace(parent, correlation_id or parent[3:35])


def check_traceparent(traceparent: str) -> str:
    """Raises UsageError unless it is a W3C traceparent."""
    if not _matches(_TRACEPARENT, traceparent):
        raise UsageError(
            f"traceparent is {traceparent!r}: expected W3C's form, 00-<32 hex>-<16 hex>-<2 hex>"
        )
    return traceparent


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
