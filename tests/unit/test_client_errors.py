"""Each failure has its class, its details and a hint."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from client_both import both
from client_wire import HTTPServer, error, http, script

import vestal.client.errors as tree
from vestal import (
    Client,
    ClientError,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidAddress,
    InvalidInput,
    NoAddress,
    NotFound,
    Overloaded,
    RequestRefused,
    ServerFailed,
    TooLarge,
    UsageError,
    VestalError,
)
from vestal.client.classification import retry_after
from vestal.client.flow import HTTPResponse


def failed(answer: bytes) -> ClientError:
    with (
        HTTPServer(script(answer)) as server,
        Client(server.url) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.predict("m", b"x", version="1.0", timeout=0.3)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(400, "InputError", "no image"), RequestRefused),
        (error(403, "InvalidModelVersionException", "Cannot remove default version"), Conflict),
        (http(403, b"<html>who are you?</html>"), RequestRefused),
        (error(404, "ModelNotFoundException", "Model not found: m"), NotFound),
        (error(409, "ConflictStatusException", "already registered"), Conflict),
        (error(413, "InputError", "too many pixels"), TooLarge),
        (error(422, "InputError", "wrong shape"), RequestRefused),
        (error(500, "InternalServerException", "our fault"), ServerFailed),
        (error(503, "InternalServerException", "Prediction failed"), ServerFailed),
        (error(503, "ServiceUnavailableException", "no worker"), DeadlineExceeded),
        (error(429, "", "slow down", retry_after="60"), Overloaded),
        (http(413, b""), TooLarge),
        (http(500, b"<html>a proxy</html>"), ServerFailed),
        (http(500, b"\xff\xfe"), ServerFailed),
        (http(500, [1, 2]), ServerFailed),
    ],
)
def test_each_status_raises_its_error(answer: bytes, kind: type[ClientError]) -> None:
    assert type(failed(answer)) is kind


def test_an_error_has_the_details_of_the_response() -> None:
    caught = failed(
        http(400, {"code": 400, "type": "InputError", "message": "no image", "request_id": "r"})
    )
    assert (caught.model, caught.version, caught.status) == ("m", "1.0", 400)
    assert (caught.server_type, caught.server_message) == ("InputError", "no image")
    assert (caught.request_id, caught.attempts) == ("request-1", 1)
    text = str(caught)
    assert text.startswith("m 1.0: http://127.0.0.1:")
    assert "answered 400 InputError: no image (request request-1, 1 attempt)" in text


@pytest.mark.parametrize(
    "answer",
    [
        *(error(status, "InputError", "no") for status in (400, 403, 409, 413, 422, 500)),
        http(302, b"", location="http://elsewhere"),
        error(429, "", "slow down", retry_after="60"),
        error(503, "ServiceUnavailableException", "no worker"),
        *(error(status, "", "a proxy", retry_after="60") for status in (502, 504)),
    ],
)
def test_every_error_has_a_hint(answer: bytes) -> None:
    assert failed(answer).hint


def test_every_error_class_has_a_hint() -> None:
    own = {
        tree.ClientError,
        InvalidAddress,
        NoAddress,
        tree.WorkerDied,
        tree.NotReady,
    }  # raised with a message and a hint of their own
    for kind in vars(tree).values():
        if isinstance(kind, type) and issubclass(kind, ClientError) and kind not in own:
            assert kind("gone").hint
            assert str(kind("gone")) == f"gone. {kind.usual_hint}"


@pytest.mark.parametrize("management", ["http://127.0.0.1:1", None])
def test_every_error_has_the_model_of_its_call(management: str | None) -> None:
    with Client("http://127.0.0.1:1", management=management, timeout=0.1) as client:
        for call in (client.describe, client.scale, client.unregister, client.set_default):
            options: dict[str, Any] = {
                "version": "1.0",
                **({"workers": 1} if call == client.scale else {}),
            }
            with pytest.raises(ClientError) as caught:
                call("m", **options)
            assert (caught.value.model, caught.value.version) == ("m", "1.0")


def test_a_token_that_a_server_repeats_is_not_in_the_error() -> None:
    echo = error(400, "InputError", "what is Bearer s3cr3t-t0k3n?")
    with (
        HTTPServer(script(echo)) as server,
        Client(server.url, token="s3cr3t-t0k3n") as client,
        pytest.raises(RequestRefused, match=r"Bearer \*\*\*") as caught,
    ):
        client.predict("m", b"x")
    assert "s3cr3t" not in f"{caught.value} {vars(caught.value)}"


def test_an_error_has_a_hint() -> None:
    caught = failed(error(404, "ModelNotFoundException", "Model not found: m"))
    assert caught.hint is not None
    assert "client.models()" in caught.hint
    assert str(caught).endswith(caught.hint)


def test_the_docstring_draws_the_tree_of_errors() -> None:
    drawn = {}
    parents: list[tuple[int, str]] = []
    assert tree.__doc__ is not None
    for line in tree.__doc__.splitlines():
        name = next((word for word in line.split() if word[0].isupper()), None)
        if name is None or not isinstance(getattr(tree, name, None), type):
            continue
        depth = line.index(name)
        while parents and parents[-1][0] >= depth:
            parents.pop()
        if parents:
            drawn[name] = parents[-1][1]
        parents.append((depth, name))
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(tree).items()
        if isinstance(kind, type) and issubclass(kind, ClientError)
    }
    assert drawn == real


def test_errors_are_also_builtin_errors() -> None:
    assert issubclass(ClientError, VestalError)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(ConnectionFailed, ConnectionError)
    assert issubclass(InvalidInput, ValueError)
    assert ClientError.exit_code == 1
    assert InvalidInput.exit_code == NoAddress.exit_code == UsageError.exit_code == 2


def test_errors_survive_pickling() -> None:
    for kind in (DeadlineExceeded, ConnectionFailed, InvalidInput, NotFound):
        before = kind("m: gone", model="m", status=404, attempts=3, hint="Look")
        after = pickle.loads(pickle.dumps(before))
        assert type(after) is kind
        assert str(after) == str(before) == "m: gone. Look"
        assert vars(after) == vars(before)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:07 GMT"}, None),  # whose clock is it?
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:07 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            7.0,
        ),
    ],
)
def test_a_retry_after_date_is_relative_to_the_clock_of_the_server(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(HTTPResponse(503, "", headers, b"")) == seconds


@both
def test_a_call_to_the_port_of_another_api_names_the_ports(kind: type[Client]) -> None:
    answer = error(404, "ResourceNotFoundException", "Requested resource is not found.")
    with (
        HTTPServer(lambda _: answer) as server,
        kind(server.url) as client,
        pytest.raises(NotFound, match="inference is usually at 8080"),
    ):
        client.predict("m", b"x")
