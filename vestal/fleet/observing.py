"""A snapshot of TorchServe: its models and versions, without what only the keeper knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vestal.client import Client, ModelDescription, NotFound
from vestal.server.logs import Logs

CALL_SECONDS = 5.0


@dataclass(frozen=True)
class Observed:
    """One model. `default`: its default version; `versions`: descriptions by version."""

    default: str | None
    versions: Mapping[str, ModelDescription]


def observe(client: Client) -> dict[str, Observed]:
    """Describe every version of every model.

    Raises:
        ClientError: TorchServe does not respond.
    """
    names = dict.fromkeys(info.name for info in client.models(timeout=CALL_SECONDS))
    observed = {name: observe_model(client, name) for name in names}
    return {name: model for name, model in observed.items() if model.versions}


def observe_model(client: Client, name: str) -> Observed:
    """Describe every version of one model; without versions if it is not registered.

    Raises:
        ClientError: TorchServe does not respond.
    """
    try:
        versions = client.versions(name, timeout=CALL_SECONDS)
        default = client.describe(name, timeout=CALL_SECONDS).version
    except NotFound:
        return Observed(None, {})
    return Observed(default, {each.version: each for each in versions})


def versions_given_up(observed: Mapping[str, Observed], logs: Logs) -> set[tuple[str, str]]:
    """Return the versions of which TorchServe does not restart a worker any more."""
    down = {
        (f"{name}_{version}", worker.id): (name, version)
        for name, model in observed.items()
        for version, description in model.versions.items()
        for worker in description.workers
        if not worker.ready
    }
    if not down:
        return set()
    return {down[worker] for worker in logs.workers_given_up() & down.keys()}
