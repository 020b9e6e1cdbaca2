"""Options of the connections: headers, TLS, the transport."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vestal.client.tokens import NoToken, Tokens
from vestal.client.tracing import CORRELATION_ID, TRACEPARENT
from vestal.errors import UsageError

Verify = bool | str | os.PathLike[str]
"""True: the CA bundle of the environment or of certifi; False: accept any certificate; or the path
of a CA bundle (PEM file, or folder of hashed certificates)."""
Cert = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""A client certificate: one PEM file with certificate and key, or (certificate, key)."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
_SET_BY_CLIENT = {
    "connection": "the client keeps connections open itself",
    "content-length": "it depends on the input",
    "content-type": "it depends on the input and the suffix of its file name",
    "host": "it depends on the address",
    "transfer-encoding": "the client sends whole bodies",
    CORRELATION_ID: "pass correlation_id= to each call",
    TRACEPARENT: "pass traceparent= to each call",
}


class ConnectionOptions(NamedTuple):
    """Validated options. The repr does not show the headers, which may hold secrets."""

    headers: Mapping[str, str]
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None
    transport: Any = None

    def __repr__(self) -> str:
        return f"<{len(self.headers)} headers, verify={self.verify!r}, cert={self.cert!r}>"


def check_retries(retries: object) -> int | None:
    """Return the number of retries; raises UsageError unless it is None, 0 or more."""
    if retries is None:
        return None
    if isinstance(retries, int) and not isinstance(retries, bool) and retries >= 0:
        return retries
    raise UsageError(
        f"retries is {retries!r}: expected a whole number, 0 for none, or None for as many as the "
        "deadline allows"
    )


def check_headers(headers: Any, tokens: Tokens) -> Mapping[str, str]:
    """Return the headers of every request; raises UsageError."""
    headers = headers or {}
    if not isinstance(headers, Mapping):
        raise UsageError(f"headers is of type {type(headers).__name__}: expected a dict")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise UsageError(f"headers: {name!r} is not a valid header name")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            # The message does not show the value, which may be a secret.
            raise UsageError(f"headers: the value of {name} is not a str of ASCII characters")
        if reason := _SET_BY_CLIENT.get(name.lower()):
            raise UsageError(f"headers: the client sets {name} itself; {reason}")
        if name.lower() == "authorization" and not isinstance(tokens, NoToken):
            raise UsageError(
                f"headers: {name} would replace the token from {tokens.origin}; pass only one"
            )
    if len({name.lower() for name in headers}) < len(headers):
        raise UsageError("headers: two names differ only in upper and lower case; keep one")
    return dict(headers)


def check_verify(verify: Verify) -> bool | str:
    """Return a usable `verify`, with an absolute path; raises UsageError."""
    if isinstance(verify, bool):
        return verify
    if not isinstance(verify, (str, os.PathLike)):
        raise UsageError(f"verify is {verify!r}: expected True, False or the path of a CA bundle")
    path = str(Path(verify).absolute())
    try:
        ca_context(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"verify is {path!r}, not a usable CA bundle: {reason}") from error
    return path


def ca_context(path: str) -> ssl.SSLContext:
    """Make a TLS context that trusts a CA bundle: a file or a folder."""
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


def check_cert(cert: Cert | None) -> str | tuple[str, str] | None:
    """Return a usable `cert`, with absolute paths; raises UsageError."""
    if cert is None:
        return None
    parts = cert if isinstance(cert, tuple) else (cert,)
    if len(parts) not in (1, 2) or not all(isinstance(one, (str, os.PathLike)) for one in parts):
        raise UsageError(
            f"cert is {cert!r}: expected the path of a PEM file, or a tuple (certificate, key)"
        )
    paths = [str(Path(one).absolute()) for one in parts]
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Without this, OpenSSL prompts for the password of an encrypted key on the terminal.
        context.load_cert_chain(paths[0], paths[-1], password=b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = " and ".join(paths)
        raise UsageError(f"cert is {shown}, not a usable certificate and key: {reason}") from error
    return paths[0] if len(paths) == 1 else (paths[0], paths[1])
