"""The clients that may call the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

CLIENT_HEADER = "x-vestal-client"
"""Request header with the name of the client, for the access log, rate limits and handlers."""


@dataclass(frozen=True)
class ApiClient:
    """A client with its API key. `models`: those that it may call; None for all."""

    name: str
    key: str = field(repr=False)
    models: frozenset[str] | None = None
