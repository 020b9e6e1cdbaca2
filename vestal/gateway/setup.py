"""Everything that Envoy's configuration follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestal.gateway.clients import ApiClient
from vestal.gateway.settings import Gateway, Sticky


@dataclass(frozen=True)
class Share:
    """A version that gets a share of a model's requests, or copies of them; `percent` of all."""

    version: str
    percent: float
    sticky: Sticky | None = None


@dataclass(frozen=True)
class ModelRoutes:
    """Where the requests for one model go.

    Attributes:
        default: TorchServe's default version, which gets what `canary` does not get.
        versions: all registered versions.
    """

    name: str
    default: str
    versions: Sequence[str]
    canary: Share | None = None
    shadow: Share | None = None


@dataclass(frozen=True)
class Secrets:
    """What only the owner may read.

    Attributes:
        token: TorchServe's inference key; None if it requires none.
        clients: None if no API key is needed.
        certificate, private_key: PEM texts; None without TLS.
    """

    token: str | None = field(default=None, repr=False)
    clients: Sequence[ApiClient] | None = None
    certificate: str | None = None
    private_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Setup:
    """The gateway of one server.

    Attributes:
        port: where it listens.
        torchserve, keeper: host and port of TorchServe's inference API and of the keeper's API.
        max_body: bytes of a request's body.
        folder: for Envoy's files.
        admin: path of the Unix socket of Envoy's admin interface.
        access_log: a line of JSON for each request.
    """

    settings: Gateway
    port: int
    torchserve: tuple[str, int]
    keeper: tuple[str, int]
    max_body: int
    folder: Path
    admin: Path
    access_log: Path
    models: Sequence[ModelRoutes] = ()
    secrets: Secrets = Secrets()
