"""The gateway in front of a real server: tokens, TLS, HTTP/2 and restarts of Envoy."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import requests
import trustme
from gateway_served import KEY, Gated
from serving import until

from vestal import Client
from vestal.gateway.settings import Tls


def test_no_call_fails_while_torchserves_token_is_renewed(served: Gated) -> None:
    ready = served.server.ready
    assert ready.key_file is not None
    keys = json.loads(Path(ready.key_file).read_text())
    ended, versions = threading.Event(), []

    def call() -> None:
        with Client(served.url, token=KEY) as client:
            while not ended.is_set():
                versions.append(client.predict("echo", b"x")["version"])

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for _ in range(5):
            response = requests.get(
                f"{ready.management}/token",
                params={"type": "inference"},
                headers={"Authorization": f"Bearer {keys['API']['key']}"},
                timeout=10,
            )
            assert response.status_code == 200
            count = len(versions)
            until(lambda: len(versions) > count + 5 or not thread.is_alive(), 20, "more")  # noqa: B023
    finally:
        ended.set()
        thread.join()
    assert set(versions) == {"1.0"}
    assert json.loads(Path(ready.key_file).read_text())["inference"] != keys["inference"]


def test_envoy_is_started_again_when_it_is_killed(served: Gated) -> None:
    status = served.keeper.gatekeeper.status
    assert status is not None
    with Client(served.url, token=KEY) as client:
        assert client.predict("echo", b"x")["version"] == "1.0"
        served.envoy.kill()
        assert client.predict("echo", b"x", timeout=20)["version"] == "1.0"
    after = served.keeper.gatekeeper.status
    assert after is not None
    assert after.restarts == status.restarts + 1


def test_tls_with_a_certificate_that_is_replaced(served: Gated) -> None:
    folder = served.keys.parent
    certificate, key = folder / "cert.pem", folder / "key.pem"
    first, second = trustme.CA(), trustme.CA()

    def issue(authority: trustme.CA) -> None:
        issued = authority.issue_cert("127.0.0.1")
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())

    def protocol(authority: trustme.CA) -> str | None:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(served.address, timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            return connection.selected_alpn_protocol()

    def is_second() -> bool:
        try:
            return protocol(second) == "h2"
        except ssl.SSLCertVerificationError:
            return False

    issue(first)
    try:
        served.change(tls=Tls(certificate=str(certificate), key=str(key)))
        assert served.url.startswith("https://")
        assert protocol(first) == "h2"
        with first.cert_pem.tempfile() as authority:
            headers = {"Authorization": f"Bearer {KEY}"}
            url = f"{served.url}/predictions/echo"
            response = requests.post(url, b"x", headers=headers, verify=authority, timeout=10)
            assert response.json()["version"] == "1.0"
        issue(second)
        until(is_second, 10, "the second certificate")
    finally:
        served.change(tls=None)
    assert served.post().status_code == 200


def test_http_2_is_spoken(served: Gated) -> None:
    settings_frame = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with socket.create_connection(served.address, timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame)
        assert connection.recv(4096)[3] == 4  # the gateway's own SETTINGS


def test_without_envoy_the_server_names_the_package(served: Gated) -> None:
    code = (
        "import sys; sys.modules['envoy'] = None; from vestal.cli import main; "
        "sys.argv = ['vestal', 'apply', '--dry-run']; main()"
    )
    root = served.server._project.root
    (root / "serving.yaml").write_text("models: {}\ngateway: {}\n")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'vestal[gateway]'" in done.stderr
    assert "Traceback" not in done.stderr
