"""Envoy's own settings, and the files of a gateway. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestal.gateway.clusters import clusters
from vestal.gateway.listeners import CERTIFICATE, TOKEN, api_keys, listener
from vestal.gateway.protos import Config, file_source, typed
from vestal.gateway.routes import routes
from vestal.gateway.setup import Setup

BOOTSTRAP = "envoy.json"
_HEAP_BYTES = 2 << 30
"""Memory of Envoy above which it refuses requests; it holds their bodies."""


def resources(setup: Setup) -> dict[str, list[Config]]:
    """Return the content of each file that Envoy reads again when it is replaced, by name.

    A file has resources of one kind. Envoy accepts one secret in each. The listener, which refers
    to other files, is the last one.
    """
    found = {"clusters.json": clusters(setup), "routes.json": [routes(setup)]}
    if setup.secrets.clients is not None:
        found["api_keys.json"] = [api_keys(setup)]
    for secret in _secrets(setup):
        found[{TOKEN: "token.json", CERTIFICATE: "certificate.json"}[secret["name"]]] = [secret]
    return {**found, "listeners.json": [listener(setup)]}


def static_bootstrap(setup: Setup) -> Config:
    """Return the whole configuration in one message, for `envoy --mode validate`.

    It does not read files of resources in this mode.
    """
    found = {
        "listeners": [listener(setup)],
        "clusters": clusters(setup),
        "secrets": _secrets(setup),
    }
    [chain] = found["listeners"][0]["filter_chains"]
    http = chain["filters"][0]["typed_config"]
    del http["rds"]
    http["route_config"] = _plain(routes(setup))
    keys = _plain(api_keys(setup))
    http["http_filters"] = [
        keys if "config_discovery" in each else each for each in http["http_filters"]
    ]
    static = {name: [_plain(each) for each in messages] for name, messages in found.items()}
    without_sources = _without_sources(static)
    assert isinstance(without_sources, dict)
    return {**bootstrap(setup), "dynamic_resources": {}, "static_resources": without_sources}


def bootstrap(setup: Setup) -> Config:
    """Return Envoy's own settings; a change of them needs a new process."""
    connections = typed(
        "envoy.resource_monitors.global_downstream_max_connections",
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=setup.settings.max_connections,
    )
    heap = typed(
        "envoy.resource_monitors.fixed_heap",
        "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=_HEAP_BYTES,
    )
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.95}}
    refuse = {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [trigger]}
    return {
        "node": {"id": "vestal", "cluster": "vestal"},
        "admin": {"address": {"pipe": {"path": str(setup.admin), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": file_source(setup.folder / "listeners.json"),
            "cds_config": file_source(setup.folder / "clusters.json"),
        },
        "stats_flush_interval": "1s",
        "stats_config": {
            "use_all_default_tags": False,
            "stats_tags": [
                {"tag_name": "envoy.cluster_name", "regex": r"^cluster\.((.+?)\|\.)"},
                {"tag_name": "envoy.response_code", "regex": r"_rq(_(\d{3}))$"},
                {"tag_name": "envoy.response_code_class", "regex": r"_rq(_(\d)xx)$"},
                {"tag_name": "envoy.http_conn_manager_prefix", "regex": r"^http\.((.*?)\.)"},
            ],
        },
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [connections, heap],
            "actions": [refuse],
        },
    }


def _secrets(setup: Setup) -> list[Config]:
    found, values = [], setup.secrets
    if values.token is not None:
        token = {"secret": {"inline_string": values.token}}
        found.append(_secret(TOKEN, generic_secret=token))
    if values.certificate is not None:
        certificate = {
            "certificate_chain": {"inline_string": values.certificate},
            "private_key": {"inline_string": values.private_key},
        }
        found.append(_secret(CERTIFICATE, tls_certificate=certificate))
    return found


def _secret(name: str, **content: Any) -> Config:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    return {"@type": kind, "name": name, **content}


def _plain(message: Config) -> Config:
    return {key: value for key, value in message.items() if key != "@type"}


def _without_sources(value: Any) -> Any:
    """Remove the files from which secrets are read: those in the same message are used."""
    if isinstance(value, Mapping):
        return {k: _without_sources(v) for k, v in value.items() if k != "sds_config"}
    return [_without_sources(each) for each in value] if isinstance(value, list) else value
