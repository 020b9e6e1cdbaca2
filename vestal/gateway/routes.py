"""Envoy's routes: which version gets a request.

    /predictions/MODEL[/VERSION]    /explanations/MODEL[/VERSION]
    /v2/models/MODEL[/versions/VERSION]/infer

Any other path is answered with 404: TorchServe's management, metrics and descriptions cannot be
reached. Without a canary, a request without version stays without one, so that TorchServe's own
switch of the default version applies to the next request.
"""

from __future__ import annotations

from collections.abc import Iterator

from vestal.gateway.clients import CLIENT_HEADER
from vestal.gateway.clusters import cluster_name, shadow_name
from vestal.gateway.protos import Config, typed_config
from vestal.gateway.setup import ModelRoutes, Setup, Share

NAME = "gateway"
API_KEYS = "api_keys"
"""Name of the filter that checks API keys."""
FORWARDING = {"header": CLIENT_HEADER, "hide_credentials": True}
"""What that filter does with a key; the configuration of a route does not inherit it."""
BUFFER = "buffer"
"""Name of the filter that waits for the whole body."""
_BUFFER = "extensions.filters.http.buffer.v3.Buffer"
_WEIGHTS = 10_000
"""Sum of the weights: hundredths of a percent."""
_MIRRORED = 1_000_000
_APIS = {
    "/predictions/{model}": "predictions",
    "/explanations/{model}": "explanations",
    "/v2/models/{model}/infer": "predictions",
}
_APIS_OF_A_VERSION = {
    "/predictions/{model}/{version}": "predictions",
    "/explanations/{model}/{version}": "explanations",
    "/v2/models/{model}/versions/{version}/infer": "predictions",
}
"""Paths of the gateway, and TorchServe's API for each. Its own v2 API knows no versions."""
_LARGEST = 2**62


def routes(setup: Setup) -> Config:
    """Return the route configuration."""
    found = [route for model in setup.models for route in _of_model(model, setup)]
    host = {
        "name": "models",
        "domains": ["*"],
        "routes": [_too_large(setup), *found, _not_found()],
    }
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": NAME,
        "virtual_hosts": [host],
    }


def _of_model(model: ModelRoutes, setup: Setup) -> Iterator[Config]:
    permission = _permission(model, setup)
    for path, api in _APIS.items():
        action = _default_action(model, api) | _timeouts(setup)
        if model.shadow and api == "predictions":
            action["request_mirror_policies"] = [_mirror(model, model.shadow)]
        yield _route(path.format(model=model.name), action, permission)
    for version in model.versions:
        cluster = cluster_name(model.name, version)
        for path, api in _APIS_OF_A_VERSION.items():
            action = {"cluster": cluster, "path_rewrite": f"/{api}/{cluster}"} | _timeouts(setup)
            yield _route(path.format(model=model.name, version=version), action, permission)


def _route(path: str, action: Config, permission: Config) -> Config:
    methods = {"string_match": {"safe_regex": {"regex": "GET|POST|PUT"}}}
    match = {"path": path, "headers": [{"name": ":method", **methods}]}
    return {"match": match, "route": action, **permission}


def _default_action(model: ModelRoutes, api: str) -> Config:
    default = cluster_name(model.name, model.default)
    canary = model.canary
    if canary is None or canary.percent <= 0:
        return {"cluster": default, "path_rewrite": f"/{api}/{model.name}"}
    weight = min(_WEIGHTS, max(1, round(canary.percent * _WEIGHTS / 100)))
    # As the share grows, a user who has had the canary keeps it: it has the upper end of the range.
    clusters = [
        {"name": default, "weight": _WEIGHTS - weight},
        {"name": cluster_name(model.name, canary.version), "weight": weight},
    ]
    action: Config = {
        "weighted_clusters": {"clusters": clusters},
        # The name of the chosen cluster is MODEL/VERSION. A cluster with a weight has no rewrite.
        "path_rewrite": f"/{api}/%UPSTREAM_CLUSTER_RAW%",
    }
    if canary.sticky:
        action["weighted_clusters"]["use_hash_policy"] = True
        action["hash_policy"] = [_hash_policy(canary)]
    return action


def _hash_policy(canary: Share) -> Config:
    assert canary.sticky is not None
    if canary.sticky.header:
        return {"header": {"header_name": canary.sticky.header}}
    return {"cookie": {"name": canary.sticky.cookie}}


def _mirror(model: ModelRoutes, shadow: Share) -> Config:
    numerator = round(shadow.percent * _MIRRORED / 100)
    return {
        "cluster": shadow_name(model.name, shadow.version),
        "runtime_fraction": {
            "default_value": {"numerator": numerator, "denominator": "MILLION"},
        },
        "disable_shadow_host_suffix_append": True,
    }


def _timeouts(setup: Setup) -> Config:
    return {
        "timeout": "0s",  # callers have their own deadlines; a stream may take as long as it likes
        "idle_timeout": f"{setup.settings.response_timeout:g}s",
        "retry_policy": {
            # A request that may have reached TorchServe is the caller's to repeat.
            "retry_on": "connect-failure",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
        },
    }


def _permission(model: ModelRoutes, setup: Setup) -> Config:
    """Return who may call a model, if only some of the clients may."""
    clients = setup.secrets.clients or ()
    if all(each.models is None for each in clients):
        return {}
    allowed = [c.name for c in clients if c.models is None or model.name in c.models]
    # An empty list would allow everybody.
    per_route = typed_config(
        "extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        allowed_clients=allowed or ["no client"],
        forwarding=FORWARDING,
    )
    return {"typed_per_filter_config": {API_KEYS: per_route}}


def _too_large(setup: Setup) -> Config:
    """Refuse a request by its Content-Length, before its body is read."""
    larger = {"range_match": {"start": setup.max_body + 1, "end": _LARGEST}}
    message = f"the body has more than {setup.max_body:,} bytes"
    return {
        "match": {"prefix": "/", "headers": [{"name": "content-length", **larger}]},
        **_respond(413, message),
        "typed_per_filter_config": {BUFFER: typed_config(f"{_BUFFER}PerRoute", disabled=True)},
    }


def _not_found() -> Config:
    message = "no such model, version or path behind this gateway"
    return {"match": {"prefix": "/"}, **_respond(404, message)}


def _respond(status: int, message: str) -> Config:
    return {"direct_response": {"status": status, "body": {"inline_string": message}}}
