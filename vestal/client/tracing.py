"""Traces: W3C `traceparent` and `x-correlation-id` on every inference, spans of OpenTelemetry.

Vestal's handlers return both headers and log them. If the program has imported OpenTelemetry, every
call is a client span, and the header names it; nothing is imported here.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NamedTuple, Protocol

from vestal.errors import UsageError

TRACEPARENT, CORRELATION_ID = "traceparent", "x-correlation-id"
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_CORRELATION_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Span(Protocol):
    """A span of a call."""

    def header(self) -> str | None:
        """Return the traceparent of this span, if it has one."""

    def event(self, name: str, **attributes: str | int | float) -> None: ...

    def end(self, error: BaseException | None) -> None: ...


class _NoSpan:
    def header(self) -> str | None:
        return None

    def event(self, name: str, **attributes: str | int | float) -> None:
        """Do nothing."""

    def end(self, error: BaseException | None) -> None:
        """Do nothing."""


NO_SPAN: Span = _NoSpan()


class _OpenTelemetrySpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    def header(self) -> str | None:
        context = self._span.get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def event(self, name: str, **attributes: str | int | float) -> None:
        self._span.add_event(name, attributes)

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            status = sys.modules["opentelemetry.trace"].StatusCode.ERROR
            self._span.record_exception(error)
            self._span.set_status(status, str(error))
            self._span.set_attribute("error.type", type(error).__qualname__)
        self._span.end()


def span(operation: str, model: str | None, traceparent: str | None) -> Span:
    """Start a client span, `vestal.predict mnist`; a child of `traceparent` if given."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return NO_SPAN
    parent = None
    if traceparent is not None:
        _, trace_id, span_id, flags = checked(traceparent).split("-")
        remote = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
        )
        parent = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    name = f"vestal.{operation} {model}" if model else f"vestal.{operation}"
    attributes = {"vestal.operation": operation, **({"vestal.model": model} if model else {})}
    started = trace.get_tracer("vestal").start_span(
        name, context=parent, kind=trace.SpanKind.CLIENT, attributes=attributes
    )
    return _OpenTelemetrySpan(started)


class Trace(NamedTuple):
    """The two headers of a call, as sent."""

    traceparent: str
    correlation_id: str

    def headers(self) -> dict[str, str]:
        return {TRACEPARENT: self.traceparent, CORRELATION_ID: self.correlation_id}


def trace_of(span: Span, traceparent: str | None, correlation_id: str | None) -> Trace:
    """Return the caller's headers, or a new trace whose id is the correlation id.

    Raises UsageError for an invalid header.
    """
    if correlation_id is not None and not _is(correlation_id, _CORRELATION_ID):
        raise UsageError(
            f"correlation_id is {correlation_id!r}: expected 1 to 128 visible ASCII characters"
        )
    parent = span.header() or (checked(traceparent) if traceparent is not None else None)
    if parent is None:
        drawn = os.urandom(24).hex()
        parent = f"00-{drawn[:32]}-{drawn[32:]}-00"
    return Trace(parent, correlation_id or parent[3:35])


def checked(traceparent: str) -> str:
    """Raises UsageError unless it is a W3C traceparent."""
    if not _is(traceparent, _TRACEPARENT):
        raise UsageError(
            f"traceparent is {traceparent!r}: expected W3C's form, 00-<32 hex>-<16 hex>-<2 hex>"
        )
    return traceparent


def _is(value: object, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
