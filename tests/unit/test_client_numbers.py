"""Invalid numbers in the responses of a server or a proxy."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from client_both import both
from client_torchserve import FakeTorchServe, ready
from client_wire import Connection, WireServer, http

from vestal import Client, ClientError, Overloaded, ServerFailed

ASKED = {
    "huge": {"retry_after": "1e300"},
    "more than a socket's timeout": {"retry_after": "1e15"},
    "a date in the year 9999": {
        "retry_after": "Fri, 31 Dec 9999 23:59:59 GMT",
        "date": "Mon, 01 Jan 0001 00:00:00 GMT",
    },
}
NONSENSE = {
    "infinite": {"retry_after": "inf"},
    "no number": {"retry_after": "nan"},
    "negative": {"retry_after": "-1e300"},
    "5,000 digits": {"retry_after": "9" * 5000},
    "a year of 20 digits": {
        "retry_after": f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT",
        "date": "Mon, 01 Jan 2001 00:00:00 GMT",
    },
    "a time zone of 20 digits": {
        "retry_after": f"Fri, 31 Dec 2001 23:59:59 +{'9' * 20}",
        "date": "Mon, 01 Jan 2001 00:00:00 GMT",
    },
}
LENGTHS = {
    "length 2**63": b"content-length: 9223372036854775808\r\n\r\n{}",
    "length 10**15": b"content-length: 1000000000000000\r\n\r\n{}",
    "length of 5,000 digits": b"content-length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "length below 0": b"content-length: -5\r\n\r\n{}",
    "two lengths": b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "chunk of 2**72": b"transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n{}",
    "chunk of 10**15": b"transfer-encoding: chunked\r\n\r\n38D7EA4C68000\r\n{}",
    "chunk below 0": b"transfer-encoding: chunked\r\n\r\n-5\r\n{}",
    "chunk of no number": b"transfer-encoding: chunked\r\n\r\nzz\r\n{}",
}


def once(answer: bytes) -> WireServer:
    """A server that responds to one request of each connection."""

    def behave(connection: Connection) -> None:
        connection.receive()
        connection.send(answer)

    return WireServer(behave)


@both
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("timeout", [5, None])
def test_a_retry_after_of_years_is_not_waited_for(
    kind: type[Client], status: int, headers: dict[str, str], timeout: float | None
) -> None:
    with (
        once(http(status, b"", **headers)) as server,
        kind(server.url) as client,
        pytest.raises(Overloaded) as caught,
    ):
        client.predict("m", b"x", timeout=timeout)
    assert caught.value.attempts == 1


@both
@pytest.mark.parametrize("headers", NONSENSE.values(), ids=NONSENSE)
def test_an_invalid_retry_after_is_ignored(kind: type[Client], headers: dict[str, str]) -> None:
    with (
        once(http(503, b"", **headers)) as server,
        kind(server.url) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.predict("m", b"x", timeout=0.5)
    assert caught.value.attempts > 1


@both
@pytest.mark.parametrize("rest", LENGTHS.values(), ids=LENGTHS)
def test_an_invalid_content_length_raises_a_client_error(kind: type[Client], rest: bytes) -> None:
    with (
        once(b"HTTP/1.1 200 OK\r\n" + rest) as server,
        kind(server.url) as client,
        suppress(ClientError),  # whatever else is raised fails the test
    ):
        assert client.predict("m", b"x", timeout=0.2).value == {}


@both
@pytest.mark.parametrize("status", [200, 404, 500, 503])
def test_too_deeply_nested_json_is_text(kind: type[Client], status: int) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    with once(http(status, deep)) as server, kind(server.url) as client:
        if status == 200:
            assert client.predict("m", b"x").value == deep.decode()
        else:
            with pytest.raises(ClientError):
                client.predict("m", b"x", timeout=0.5)


@both
@pytest.mark.parametrize("field", ["minWorkers", "responseTimeout", "batchSize"])
@pytest.mark.parametrize("value", ["4", None, 1.5, [1]])
def test_a_description_with_other_types_is_rejected(
    kind: type[Client], field: str, value: Any
) -> None:
    version = ready("1.0")
    document = version.document

    def changed(model: str) -> dict[str, Any]:
        return {**document(model), field: value}

    version.document = changed  # type: ignore[method-assign]
    with (
        FakeTorchServe(m=[version]) as server,
        kind(management=server.url) as client,
        pytest.raises(ServerFailed, match="did not respond as TorchServe's management API does"),
    ):
        client.wait_ready("m", timeout=5)
