"""Certificates and an HTTPS server for the client's tests."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from client_wire import Connection, WireServer, http


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path, Path]:
    """Write a certificate for a host, its key and the CA bundle that it is valid with."""
    folder.mkdir(exist_ok=True)
    authority = trustme.CA()
    certificate = authority.issue_cert(name, common_name=name)
    cert, key, bundle = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(bundle)
    return cert, key, bundle


def server_context(cert: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """`client_ca`: require a client certificate that this authority signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def common_name(connection: ssl.SSLSocket) -> str | None:
    """Return the common name of the client's certificate; None if it sent none."""
    subject: Any = (connection.getpeercert() or {}).get("subject", ())
    return dict(part[0] for part in subject).get("commonName")


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
                inner.send(http(200, {"client": common_name(secured)}))

    with WireServer(behave) as server:
        yield server.url.replace("http://127.0.0.1", "https://localhost")
