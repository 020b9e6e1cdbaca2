"""Hostile requests to the gateway: framing, sizes, rates and slow callers."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from gateway_served import KEY, MAX_BODY, OTHER_KEY, Gated

from vestal import Client


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Bad Header: x\r\n",
        "X: a\r\n\x00b: c\r\n",
    ],
)
def test_a_request_of_ambiguous_length_is_refused(served: Gated, headers: str) -> None:
    hidden = f"GET /hidden HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    request = f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    answer = served.raw(f"{request}{headers}\r\n0\r\n\r\n{hidden}".encode("latin-1"))
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 413 "))
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("extension", [b"5;a\n\r\n", b"5\n", b"5;\x00\r\n", b"5 \r\n"])
def test_a_malformed_chunk_is_refused_or_reframed(served: Gated, extension: bytes) -> None:
    """TorchServe accepts them; it must not see them."""
    before = len(served.requests_received())
    request = f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    headers = "Content-Type: a/b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = served.raw(
        f"{request}{headers}".encode() + extension + b"hello\r\n0\r\n\r\n", seconds=4
    )
    seen = [each["headers"] for each in served.requests_received()[before:]]
    assert all("transfer-encoding" not in each and each["content-length"] == "5" for each in seen)
    assert len(seen) == answer.count(b"HTTP/1.1 200 ")


def test_a_chunked_request_reaches_torchserve_with_its_length(served: Gated) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"12345"
        yield b"678"

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "a/b"}
    response = requests.post(
        f"{served.url}/predictions/echo", pieces(), headers=headers, timeout=10
    ).json()
    assert (response["length"], response["headers"]["content-length"]) == (8, "8")
    assert "transfer-encoding" not in response["headers"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(served: Gated) -> None:
    head = "POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 19000000\r\n"
    answer = served.raw(f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"the body has more than {MAX_BODY:,} bytes".encode() in answer
    assert served.raw(f"{head}\r\n".encode()).startswith(b"HTTP/1.1 401 ")
    at_limit = served.post(body=bytes(MAX_BODY), headers={"Content-Type": "a/b"})
    assert (at_limit.status_code, at_limit.json()["length"]) == (200, MAX_BODY)


def test_a_chunked_body_over_the_limit_is_refused(served: Gated) -> None:
    head = "POST /predictions/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    chunk = b"%x\r\n%s\r\n" % (MAX_BODY, bytes(MAX_BODY))
    answer = served.raw(
        f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode() + chunk + b"5\r\nhello"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "headers",
    ["".join(f"a{n}: 1\r\n" for n in range(101)), "a: 1\r\n" * 10_000, f"a: {'1' * 40_000}\r\n"],
    ids=["101 headers", "10,000 headers", "40 KB"],
)
def test_too_many_headers_are_refused(served: Gated, headers: str) -> None:
    head = f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    answer = served.raw(f"{head}{headers}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""  # closed while they were sent


@pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
def test_a_form_has_at_most_10_000_fields(served: Gated, kind: str) -> None:
    def send(fields: int) -> requests.Response:
        names = [f"a{number}" for number in range(fields)]
        parts = dict.fromkeys(names, (None, "1")) if kind == "multipart" else None
        return requests.post(
            f"{served.url}/predictions/echo",
            dict.fromkeys(names, "1") if kind == "urlencoded" else None,
            files=parts,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=20,
        )

    assert send(10_000).status_code == 200
    refused = send(10_001)
    assert refused.status_code == 413
    assert "the form has more than 10000 fields" in refused.json()["message"]


def test_a_caller_above_the_rate_limit_is_told_to_wait(served: Gated) -> None:
    try:
        served.change(rate_limit=5)
        responses = [served.post() for _ in range(15)]
        limited = [each for each in responses if each.status_code == 429]
        assert 0 < len(limited) < 15
        assert {each.status_code for each in responses} == {200, 429}
        assert {each.headers["retry-after"] for each in limited} == {"1"}
        assert limited[0].json()["type"] == "TooManyRequests"
        assert served.post(key=OTHER_KEY).status_code == 403  # another caller has its own rate
        with Client(served.url, token=KEY) as client:
            assert client.predict("echo", b"x")["version"] == "1.0"  # after a pause
    finally:
        served.change(rate_limit=None)


def test_half_sent_requests_are_closed(served: Gated) -> None:
    heads = [
        b"POST /predictions/echo HTTP/1.1\r\nHost: x\r\n",
        f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nAuthorization: Bearer "
        f"{KEY}\r\n\r\nab".encode(),
    ]
    connections = [socket.create_connection(served.address, timeout=15) for _ in range(500)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(heads[number % 2])
        assert served.post().status_code == 200  # others are served meanwhile
        statuses = Counter(_read_to_end(connection)[:13] for connection in connections)
    finally:
        for connection in connections:
            connection.close()
    assert statuses == {b"HTTP/1.1 408 ": 500}


def _read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    return answer


def test_bodies_without_a_key_are_refused_before_they_are_read(served: Gated) -> None:
    before = served.torchserve.memory_info().rss
    head = b"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 19000000\r\n\r\n"
    count = len(served.requests_received())
    connections = [socket.create_connection(served.address, timeout=15) for _ in range(24)]
    for connection in connections:
        connection.sendall(head + bytes(10_000))
    answers = {connection.recv(4096)[:13] for connection in connections}
    for connection in connections:
        connection.close()
    assert answers == {b"HTTP/1.1 401 "}
    assert len(served.requests_received()) == count
    assert served.torchserve.memory_info().rss < before + 24 * 1_000_000  # of 24 * 19 MB
