"""What a real Envoy counts of a version: every response once, failures, and times."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from serving import END_SECONDS, until

from vestal.configuration.ports import free_ports
from vestal.errors import VestalError
from vestal.fleet.canary.counts import gateway_statistics
from vestal.gateway.admin import EnvoyAdmin
from vestal.gateway.clusters import statistics_name
from vestal.gateway.envoy import find_envoy

VERSIONS = [("echo", "2.0"), ("echo", "2.1"), ("echo", "9.0")]


class Versions(BaseHTTPRequestHandler):
    """Respond to `/WAIT/STATUS` with STATUS, after WAIT milliseconds."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, wait, status = self.path.split("/")
        time.sleep(int(wait) / 1000)
        self.send_response(int(status))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def cluster(name: str, port: int) -> dict:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    stat = {"alt_stat_name": statistics_name(name)}
    return {"name": name, **stat, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def bootstrap(folder: Path, port: int, upstream: int, closed: int) -> str:
    """A configuration with a cluster per version; `closed`: a port on which nobody listens."""
    kinds = "type.googleapis.com/envoy.extensions.filters"
    routes = [
        {"match": {"prefix": f"/{version}/"}, "route": {"cluster": f"{model}/{version}"}}
        for model, version in VERSIONS
    ]
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{kinds}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [cluster(f"echo/{v}", upstream) for v in ("2.0", "2.1")]
    return json.dumps(
        {
            "admin": {"address": {"pipe": {"path": str(folder / "admin.sock"), "mode": 0o600}}},
            "stats_flush_interval": "1s",
            "static_resources": {
                "listeners": [listener],
                "clusters": [*clusters, cluster("echo/9.0", closed)],
            },
        }
    )


@pytest.fixture(scope="module")
def envoy() -> Iterator[tuple[str, EnvoyAdmin]]:
    """The address of an Envoy in front of two versions, and its admin interface."""
    program = find_envoy()
    if program is None:
        pytest.skip("the extra gateway is not installed")
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Versions)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    port, closed = free_ports("127.0.0.1", 2)
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        folder = Path(name)
        file = folder / "envoy.json"
        file.write_text(bootstrap(folder, port, upstream.server_port, closed))
        command = [str(program), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id"]
        with subprocess.Popen([*command, "-l", "error"], cwd=folder) as process:
            admin = EnvoyAdmin(folder / "admin.sock")
            until(lambda: responds(admin), END_SECONDS, "Envoy")
            yield f"http://127.0.0.1:{port}", admin
            process.terminate()
    upstream.shutdown()
    upstream.server_close()


def responds(admin: EnvoyAdmin) -> bool:
    try:
        return admin.get("/ready").startswith("LIVE")
    except VestalError:
        return False


def test_every_response_is_counted_once_with_its_time(envoy) -> None:
    url, admin = envoy
    read = gateway_statistics(admin.get)
    before = read(VERSIONS)
    with requests.Session() as session:
        for path in (
            *["2.0/0/200"] * 30,
            *["2.0/0/422"] * 5,
            *["2.0/0/500"] * 2,
            *["2.0/300/503"],
            *["2.1/120/200"] * 4,
            *["9.0/0/200"] * 3,
        ):
            session.get(f"{url}/{path}", timeout=30)
    # Envoy adds the times of its threads up once a second.
    until(lambda: read(VERSIONS)["echo", "2.1"].times.count == 4, END_SECONDS, "the times")
    now = read(VERSIONS)
    counts = {
        version: now["echo", version].since(before["echo", version]) for _, version in VERSIONS
    }
    found = {version: (each.requests, each.failures) for version, each in counts.items()}
    assert found == {"2.0": (38, 3), "2.1": (4, 0), "9.0": (3, 3)}
    assert counts["2.0"].times.count == 38
    assert counts["2.0"].times.above(300) == 1
    assert counts["2.1"].times.above(120) == 4
    assert counts["2.1"].times.quantile(0.5) >= 121


def test_an_unknown_version_has_no_counts_and_a_missing_gateway_is_an_error(
    envoy, tmp_path
) -> None:
    _, admin = envoy
    assert gateway_statistics(admin.get)([("echo", "3.0")])["echo", "3.0"].requests == 0
    with pytest.raises(VestalError):
        gateway_statistics(EnvoyAdmin(tmp_path / "none.sock").get)(VERSIONS)
