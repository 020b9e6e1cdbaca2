"""The clients that may call the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ApiClient:
    """A client with its API key. `models`: those that it may call; None for all."""

    name: str
    key: str = field(repr=False)
    models: frozenset[str] | None = None
