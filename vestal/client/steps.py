"""What a call asks of whoever carries it out: send this request, or pause.

A call is a generator of steps: it yields a `Request` or a `Pause`, is sent a `Reply` or a `Broken`
for each request, and returns its result. All rules (retries, tokens, readiness, draining) are such
generators, so they are written once for the blocking client and for the asynchronous one.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One request on the wire. Headers hold the token: never in the repr."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds, or until the deadline, whichever comes first."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """A whole answer. The names of `headers` are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body parsed, None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True)
class Broken:
    """No whole answer came.

    `phase`: what was being done ("connecting", "sending the body", ...).
    `sent`: the whole request had been handed to the network.
    `final`: trying again cannot help (a name that does not resolve, a certificate).
    """

    phase: str
    error: BaseException
    sent: bool
    final: bool = False


Steps = Generator[Request | Pause, Reply | Broken | None, T]
