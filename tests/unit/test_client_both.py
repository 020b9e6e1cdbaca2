"""The two clients have the same names, arguments and errors."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_both import both
from client_wire import HTTPServer, Received, error, http

import vestal
from vestal import (
    AsyncClient,
    Client,
    RequestRefused,
    UsageError,
)
from vestal.client.tokens import FixedToken, KeyFile


def echo(request: Received) -> bytes:
    if request.body == b"bad":
        return error(400, "InputError", "bad")
    return http(200, {"echo": request.body.decode(), "connection": request.connection})


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    assert public(Client) == public(AsyncClient)
    for name in ["__init__", *public(Client)]:
        sync, other = getattr(Client, name), getattr(AsyncClient, name)
        ours, theirs = inspect.signature(sync), inspect.signature(other)
        assert name == "__init__" or (sync.__doc__ and other.__doc__), name
        if name == "iter_predictions":  # an asynchronous iterator, which takes such inputs too
            assert list(ours.parameters) == list(theirs.parameters)
            continue
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
        assert ours.return_annotation == theirs.return_annotation, name
        assert inspect.iscoroutinefunction(other) == (name != "__init__"), name


def test_both_clients_define_their_methods_in_the_same_order() -> None:
    names = {
        kind: [name for name in vars(kind) if not name.startswith("_")]
        for kind in (Client, AsyncClient)
    }
    assert names[Client] == names[AsyncClient]


def test_every_public_name_of_the_package_exists() -> None:
    assert vestal.__all__ == sorted(vestal.__all__)
    # Constants first, as ruff sorts.
    names = sorted(vestal.client.__all__, key=lambda name: (not name.isupper(), name))
    assert vestal.client.__all__ == names
    assert set(vestal.client.__all__) <= set(dir(vestal.client))
    assert set(vestal.__all__) <= set(dir(vestal))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        vestal.Nothing  # noqa: B018


def test_without_httpx_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "vestal.client.async_pool", raising=False)
    monkeypatch.delitem(sys.modules, "vestal.client.async_transport", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'vestal\[async\]'"):
        AsyncClient("http://127.0.0.1:1")


@both
def test_progress_is_called_after_each_result(kind: type[Client]) -> None:
    reported: list[tuple[int, int | None]] = []
    with HTTPServer(echo) as server, kind(server.url) as client:
        client.predict_many("m", [b"a", b"bad", b"c"], progress=lambda *args: reported.append(args))
        assert reported == [(1, 3), (2, 3), (3, 3)]
        client.predict_many("m", (b for b in [b"a"]), progress=lambda *args: reported.append(args))
        assert reported[3:] == [(1, None)]


@both
def test_an_error_in_progress_ends_the_call(kind: type[Client]) -> None:
    def fail(done: int, total: int | None) -> None:
        raise RuntimeError("no more")

    with HTTPServer(echo) as server, kind(server.url) as client:
        with pytest.raises(RuntimeError, match="no more"):
            client.predict_many("m", [b"a"] * 100, concurrency=2, progress=fail)
        assert len(server.received) < 10


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_pickled_client_keeps_only_its_configuration(kind: type[Client], tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    keys.write_text('{"inference": {"key": "s3cr3t"}}')
    client = kind("http://h:1", management="http://h:2", key_file=keys, timeout=7)
    client._tokens.get("inference")
    pickled = pickle.dumps(client)
    assert b"s3cr3t" not in pickled
    again = pickle.loads(pickled)
    assert type(again) is kind
    assert repr(again) == repr(client)
    assert again._policy.timeout == 7
    assert isinstance(again._tokens, KeyFile)
    assert again._tokens.get("inference") == "s3cr3t"
    with_token = pickle.loads(pickle.dumps(kind("http://h:1", token="t0ken")))
    assert isinstance(with_token._tokens, FixedToken)
    assert with_token._tokens.get("inference") == "t0ken"


def test_an_error_is_pickled_with_its_details() -> None:
    with (
        HTTPServer(echo) as server,
        Client(server.url) as client,
        pytest.raises(RequestRefused) as caught,
    ):
        client.predict("m", b"bad")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.status, again.model, str(again)) == (400, "m", str(caught.value))
    assert again.correlation_id == caught.value.correlation_id


def test_a_client_works_in_another_process() -> None:
    with HTTPServer(echo) as server, Client(server.url) as client:
        code = (
            "import pickle, sys\n"
            "with pickle.loads(sys.stdin.buffer.read()) as client:\n"
            "    print(client.predict('m', b'there')['echo'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(client), capture_output=True
        )
    assert done.stdout == b"there\n", done.stderr.decode()


@both
def test_a_file_object_that_cannot_be_rewound_is_buffered(kind: type[Client]) -> None:
    class Once:
        """A stream that cannot be rewound, like a socket's."""

        def __init__(self) -> None:
            self.reads = 0

        def read(self) -> bytes:
            self.reads += 1
            return b"content" if self.reads == 1 else b""

    answers = iter([error(503, "ServiceUnavailableException", "busy"), http(200, {})])
    stream = Once()
    with HTTPServer(lambda _: next(answers)) as server, kind(server.url) as client:
        assert client.predict("m", stream).attempts == 2
        assert [request.body for request in server.received] == [b"content"] * 2
    assert stream.reads == 1


@both
def test_predict_many_reads_inputs_lazily(kind: type[Client]) -> None:
    ahead = 0

    def inputs() -> Iterator[bytes]:
        nonlocal ahead
        for number in range(30):
            ahead = max(ahead, number - len(server.received))
            yield str(number).encode()

    with HTTPServer(echo) as server, kind(server.url) as client:
        client.predict_many("m", inputs(), concurrency=3)
    assert ahead <= 3
