"""Envoy's clusters: one for each version of a model, so that it counts and times each of them.

All of them have one endpoint, TorchServe's inference API. Outlier detection would therefore stop
all traffic of a version after a few requests with a fault of their own, and is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vestal.gateway.protos import Config, typed
from vestal.gateway.setup import ModelRoutes, Setup

KEEPER = "vestal/keeper"
COMPARE_HEADER, SHADOW_HEADER = "x-vestal-compare", "x-vestal-shadow"
"""Marks for `vestal_handlers.digests`: on a request that is copied, and on the copy."""
_CONNECT_SECONDS = 2
_MOST_CONNECTIONS = 10_000
"""The limits for callers are those of the listener."""
_MOST_COPIES = 100
"""Copies at a time for a shadow; more are dropped, so that a slow shadow does not pile them up."""
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SHADOW = """
function envoy_on_request(handle)
  handle:headers():replace(":path", "{path}")
  handle:headers():replace("x-vestal-shadow", "1")
end
"""


def cluster_name(model: str, version: str) -> str:
    return f"{model}/{version}"


def statistics_name(name: str) -> str:
    """Name of a cluster in Envoy's statistics, which end names at a dot, as most versions have."""
    return f"{name}|"


def shadow_name(model: str, version: str) -> str:
    """Name of the cluster that gets copies of requests."""
    return f"{model}/{version}/shadow"


def clusters(setup: Setup) -> list[Config]:
    """Return the clusters of all versions, and that of the keeper."""
    found = [cluster for model in setup.models for cluster in _of_model(model, setup)]
    return [*found, _keeper(setup)]


def _of_model(model: ModelRoutes, setup: Setup) -> Iterator[Config]:
    for version in model.versions:
        yield _cluster(cluster_name(model.name, version), setup.torchserve, [])
    if model.shadow:
        # Neither a mirror policy nor the filter header_mutation can change the path.
        version = model.shadow.version
        code = _SHADOW.format(path=f"/predictions/{model.name}/{version}")
        rewrite = typed(
            "shadow",
            "extensions.filters.http.lua.v3.Lua",
            default_source_code={"inline_string": code},
        )
        yield _cluster(shadow_name(model.name, version), setup.torchserve, [rewrite], _MOST_COPIES)


def _cluster(
    name: str, address: tuple[str, int], filters: list[Config], most: int = _MOST_CONNECTIONS
) -> Config:
    protocol: dict[str, Any] = {"explicit_http_config": {"http_protocol_options": {}}}
    if filters:
        codec = typed("codec", "extensions.filters.http.upstream_codec.v3.UpstreamCodec")
        protocol["http_filters"] = [*filters, codec]
    thresholds = {
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "max_retries": most,
    }
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "alt_stat_name": statistics_name(name),
        "type": "STATIC",
        "connect_timeout": f"{_CONNECT_SECONDS}s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "typed_extension_protocol_options": {
            _HTTP: {"@type": f"type.googleapis.com/{_HTTP}", **protocol}
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(*address)}}]}],
        },
    }


def _keeper(setup: Setup) -> Config:
    check = {
        "timeout": "1s",
        "interval": "1s",
        "no_traffic_interval": "1s",  # instead of a minute
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/ready", "host": "127.0.0.1"},
    }
    return {**_cluster(KEEPER, setup.keeper, []), "health_checks": [check]}


def socket_address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}
