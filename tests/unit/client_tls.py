"""A self-made certificate and an HTTPS server for the client's tests."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client_wire import Connection, WireServer, http


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Write `cert.pem` and `key.pem` for a host into a folder; skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder.mkdir(exist_ok=True)
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name}"
    extension = f"subjectAltName=DNS:{name}"
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(
        ["openssl", *command.split(), "-addext", extension, *files],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


def server_context(cert: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """`client_ca`: require a client certificate that it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


@contextmanager
def https_server(context: ssl.SSLContext) -> Iterator[str]:
    """Respond to every request with the subject of the client's certificate; yields the URL."""

    def behave(connection: Connection) -> None:
        connection.sock.settimeout(5)
        try:
            secured = context.wrap_socket(connection.sock, server_side=True)
        except (ssl.SSLError, OSError):
            return  # the client rejected the certificate, or has none
        with secured:
            inner = Connection(secured, connection.number, connection.closing)
            while inner.receive() is not None:
                subject = dict(part[0] for part in (secured.getpeercert() or {}).get("subject", ()))
                inner.send(http(200, {"client": subject.get("commonName")}))

    with WireServer(behave) as server:
        yield server.url.replace("http://127.0.0.1", "https://localhost")
