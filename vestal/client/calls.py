"""What can be asked of the server, before tokens and addresses come to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from vestal.client.tokens import Plane
from vestal.errors import UsageError


@dataclass(frozen=True)
class Call:
    """What is asked of the server.

    `repeatable`: it may be sent again although the server may have acted on it.
    """

    plane: Plane
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str | None = None
    version: str | None = None
    repeatable: bool = True


def path(*parts: str | None) -> str:
    """`/models/mnist/1.0` of its parts, quoted; None parts are left out."""
    for part in parts:
        if part in ("", ".", "..") or not isinstance(part, (str, type(None))):
            raise UsageError(f"{part!r} is no name of a model or version: expected a text")
    return "".join("/" + quote(part, safe="") for part in parts if part is not None)
