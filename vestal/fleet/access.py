"""Who may call the keeper's API, and with how much: token, Host header and size are checked.

They are checked in an ASGI middleware, because FastAPI reads the body of a request before it checks
the dependencies of a route. Without the token, no body is read.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/live", "/ready", "/metrics")
"""Paths that need no token: for probes and Prometheus."""
MAX_BODY = 32_000_000
"""Bytes of a request's body; a desired state contains the inputs of its probes."""
_MOST_DISCARDED = 4 * MAX_BODY
"""Bytes that are read and discarded, because a client that still sends cannot read a response."""
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_WILDCARDS = {"0.0.0.0", "::", ""}  # noqa: S104  compared, not bound


def error_body(code: int, kind: str, message: str) -> bytes:
    """Return an error in the shape of TorchServe's and the handlers' errors."""
    return json.dumps({"code": code, "type": kind, "message": message}).encode()


class Access:
    """Refuses requests with a wrong Host header, without the token, or with a body above MAX_BODY.

    A web page in a browser on this machine can send requests to a loopback address under a name of
    its own (DNS rebinding); the Host header then holds that name.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app = app
        self._token = token.encode()
        self._any_address = host in _WILDCARDS
        self._hosts = _LOOPBACK_NAMES | {host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        found = dict(headers)
        refusal = self._refusal(scope, found)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._app(scope, _limited(receive, found), send)

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: MutableMapping[bytes, bytes]
    ) -> tuple[int, str, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_known(host):
            message = f"Host is {host!r:.100}; expected the address of the keeper"
            return 400, "InvalidHost", message
        if scope["path"] not in OPEN_PATHS and not self._is_authorized(headers):
            message = "the token is missing or wrong; expected `Authorization: Bearer TOKEN`"
            return 401, "Unauthorized", f"{message} with the content of .vestal/keeper_token"
        return None

    def _is_authorized(self, headers: MutableMapping[bytes, bytes]) -> bool:
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)

    def _is_known(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return name in self._hosts or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    """Whether it is a literal address, which no DNS server can redirect."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _limited(receive: Receive, headers: Mapping[bytes, bytes]) -> Receive:
    """Limit a body; reading more raises HTTPException with status 413."""
    length = headers.get(b"content-length", b"")
    declared = int(length) if length.isdigit() else 0
    size = 0

    async def read() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if max(size, declared) > MAX_BODY:
            while message.get("more_body") and size < _MOST_DISCARDED:
                message = await receive()
                size += len(message.get("body", b""))
            raise HTTPException(
                413, f"the body has more than {MAX_BODY // 10**6} MB, the most that is accepted"
            )
        return message

    return read


async def _refuse(send: Send, status: int, kind: str, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": error_body(status, kind, message)})
