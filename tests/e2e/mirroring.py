"""A small Envoy that mirrors the requests of a server to a shadow version."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from vestal.configuration.ports import free_ports
from vestal.gateway.envoy import find_envoy

_HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_INTERNAL = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
_SOCKETS = "type.googleapis.com/envoy.extensions.transport_sockets"
_MARKS = ["x-vestal-compare", "x-vestal-shadow"]
START_SECONDS = 20.0


@contextlib.contextmanager
def mirror(folder: Path, inference: str, model: str, shadow: str) -> Iterator[str]:
    """Run Envoy in front of `inference`; yield its base address.

    Requests for the default version are copied to the version `shadow`.
    """
    (port,) = free_ports("127.0.0.1", 1)
    file = folder / "mirror.yaml"
    file.write_text(yaml.safe_dump(_configuration(port, inference, model, shadow)))
    envoy = find_envoy()
    assert envoy is not None
    with (folder / "envoy.log").open("w") as log:
        command = [str(envoy), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, (folder / "envoy.log").read_text()
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{base}/ping", timeout=5)
                break
            assert time.monotonic() < deadline, (folder / "envoy.log").read_text()
            time.sleep(0.05)
        yield base
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _configuration(port: int, inference: str, model: str, shadow: str) -> dict[str, Any]:
    path = f"/predictions/{model}"
    mirrored = {
        "match": {"path": path},
        "request_headers_to_remove": _MARKS,
        "request_headers_to_add": [_header("x-vestal-compare", shadow)],
        "route": {
            "cluster": "live",
            "timeout": "120s",
            "request_mirror_policies": [
                {"cluster": "mirror", "disable_shadow_host_suffix_append": True}
            ],
        },
    }
    rest = {
        "match": {"prefix": "/"},
        "request_headers_to_remove": _MARKS,
        "route": {"cluster": "live", "timeout": "120s"},
    }
    copies = {
        "match": {"path": path},
        "request_headers_to_add": [_header("x-vestal-shadow", "1")],
        "route": {
            "cluster": "shadow",
            "timeout": "120s",
            "regex_rewrite": {
                "pattern": {"regex": f"^{path}"},
                "substitution": f"{path}/{shadow}",
            },
        },
    }
    internal = {"envoy_internal_address": {"server_listener_name": "copies"}}
    raw = {
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": {"@type": f"{_SOCKETS}.raw_buffer.v3.RawBuffer"},
    }
    wrapped = {
        "name": "envoy.transport_sockets.internal_upstream",
        "typed_config": {
            "@type": f"{_SOCKETS}.internal_upstream.v3.InternalUpstreamTransport",
            "transport_socket": raw,
        },
    }
    address = {"socket_address": _host_and_port(inference)}
    listening = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    return {
        "bootstrap_extensions": [
            {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": _INTERNAL}}
        ],
        "static_resources": {
            "listeners": [
                {"name": "gateway", **listening, **_http(mirrored, rest)},
                {"name": "copies", "internal_listener": {}, **_http(copies)},
            ],
            "clusters": [
                _cluster("live", address),
                _cluster("shadow", address),
                {**_cluster("mirror", internal), "transport_socket": wrapped},
            ],
        },
    }


def _http(*routes: dict[str, Any]) -> dict[str, Any]:
    hosts = [{"name": "all", "domains": ["*"], "routes": list(routes)}]  # YAML has no tuples
    manager = {
        "@type": f"{_HTTP}.HttpConnectionManager",
        "stat_prefix": "http",
        "always_set_request_id_in_response": True,
        "preserve_external_request_id": True,
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
        "route_config": {"virtual_hosts": hosts},
    }
    return {"filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}


def _cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "connect_timeout": "5s", "load_assignment": assignment}


def _header(name: str, value: str) -> dict[str, Any]:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _host_and_port(address: str) -> dict[str, Any]:
    parts = urlsplit(address)
    return {"address": parts.hostname, "port_value": parts.port}
