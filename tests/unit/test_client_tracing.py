"""Every inference has trace headers, and a span if OpenTelemetry is in use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from client_both import both
from client_wire import QUEUE_FULL, HTTPServer, Received, error, http

from vestal import Client, InvalidInput, RequestRefused, UsageError
from vestal.client.tracing import NO_SPAN, start_span

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def echoes(request: Received) -> bytes:
    """Send the trace headers back, as Vestal's handlers do."""
    headers = {
        name.replace("-", "_"): request.headers[name]
        for name in ("traceparent", "x-correlation-id")
    }
    return http(200, {}, **headers)


@pytest.fixture
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)


@both
@pytest.mark.usefixtures("no_telemetry")
def test_a_call_has_a_trace_of_its_own(kind: type[Client]) -> None:
    with HTTPServer(echoes) as server, kind(server.url) as client:
        answers = [client.predict("m", b"x"), client.explain("m", b"x")]
    for answer, request in zip(answers, server.received, strict=True):
        version, trace, parent, flags = answer.traceparent.split("-")
        assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "00")
        assert request.headers["traceparent"] == answer.traceparent
        assert request.headers["x-correlation-id"] == answer.correlation_id == trace
    assert answers[0].traceparent != answers[1].traceparent


@both
@pytest.mark.usefixtures("no_telemetry")
def test_the_callers_own_trace_is_sent(kind: type[Client]) -> None:
    answers = iter([QUEUE_FULL, http(200, {}), http(200, {}), http(200, {})])
    own: dict[str, Any] = {"traceparent": PARENT, "correlation_id": "order-7"}
    with HTTPServer(lambda _: next(answers)) as server, kind(server.url) as client:
        answer = client.predict("m", b"x", **own)
        client.predict_many("m", [b"y", b"z"], **own)
    # A handler that does not send them back: as they were sent.
    assert (answer.traceparent, answer.correlation_id) == (PARENT, "order-7")
    assert {r.headers["traceparent"] for r in server.received} == {PARENT}
    assert {r.headers["x-correlation-id"] for r in server.received} == {"order-7"}
    assert len(server.received) == 4  # every attempt


@both
def test_an_error_has_the_correlation_id(kind: type[Client]) -> None:
    refuses = error(400, "InputError", "no")
    with HTTPServer(lambda _: refuses) as server, kind(server.url) as client:
        with pytest.raises(RequestRefused) as refused:
            client.predict("m", b"x", correlation_id="order-7")
        with pytest.raises(InvalidInput) as invalid:
            client.predict("m", {1, 2}, correlation_id="order-8", version="1.0")
    assert refused.value.correlation_id == "order-7"
    assert invalid.value.correlation_id == "order-8"
    assert (invalid.value.model, invalid.value.version) == ("m", "1.0")


@pytest.mark.parametrize(
    "wrong",
    [
        {"correlation_id": ""},
        {"correlation_id": "two\r\nlines"},
        {"correlation_id": "x" * 129},
        {"traceparent": "00-1-2-03"},
        {"traceparent": PARENT.replace("0123456789abcdef0123456789abcdef", "0" * 32)},
        {"traceparent": "ff" + PARENT[2:]},
        {"traceparent": PARENT + "\n"},
    ],
)
def test_the_error_for_an_invalid_trace_header_names_it(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with Client("http://127.0.0.1:1") as client, pytest.raises(UsageError, match=name):
        client.predict("m", b"x", **wrong)


class Telemetry:
    """OpenTelemetry's own SDK, which keeps the spans in memory."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    made = Telemetry()
    monkeypatch.setattr("opentelemetry.trace.get_tracer", made.provider.get_tracer)
    yield made
    made.provider.shutdown()


@both
def test_the_header_names_the_span_of_the_call(kind: type[Client], telemetry: Telemetry) -> None:
    answers = iter([QUEUE_FULL, http(200, {})])
    with HTTPServer(lambda _: next(answers)) as server, kind(server.url) as client:
        answer = client.predict("mnist", b"x", traceparent=PARENT)
    [made] = telemetry.exporter.get_finished_spans()
    context = made.get_span_context()
    assert context is not None
    assert made.name == "vestal.predict mnist"
    assert made.kind.name == "CLIENT"
    assert made.parent is not None
    assert f"{made.parent.trace_id:032x}" == PARENT[3:35]
    assert answer.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert [event.name for event in made.events] == ["retry", "answered"]
    assert made.attributes == {"vestal.operation": "predict", "vestal.model": "mnist"}


@both
def test_a_call_that_fails_is_a_failed_span(kind: type[Client], telemetry: Telemetry) -> None:
    refuses = error(400, "InputError", "no")
    with (
        HTTPServer(lambda _: refuses) as server,
        kind(server.url, management=server.url) as client,
    ):
        with pytest.raises(RequestRefused):
            client.predict("m", b"x")
        with pytest.raises(RequestRefused):
            client.models()
    finished = telemetry.exporter.get_finished_spans()
    predict, models = (  # a thread of another test's server may have made calls meanwhile
        span for span in finished if (span.attributes or {}).get("error.type") == "RequestRefused"
    )
    assert predict.status.status_code.name == "ERROR"
    assert models.name == "vestal.models"


def test_a_span_without_a_tracer_has_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import trace

    monkeypatch.setattr(trace, "get_tracer", trace.NoOpTracerProvider().get_tracer)
    assert start_span("predict", "m", None).traceparent() is None
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert start_span("predict", "m", None) is NO_SPAN
