"""TorchServe's listening addresses: free ports, and the processes that use a taken one."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vestal.errors import VestalError

HTTP_SETTINGS = ("inference_address", "management_address", "metrics_address")
KEEPER_SETTING = "keeper_address"
_FIRST = 12_000
"""Well-known services, and TorchServe's own 7070 to 8082 and 9000 for workers, are below."""
GRPC_SETTINGS = ("grpc_inference_port", "grpc_management_port")


@dataclass(frozen=True)
class Endpoint:
    """One listening address; `setting` is its name in config.properties."""

    setting: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Base URL for callers on this machine."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", ""} else self.host  # noqa: S104  compared, not bound
        return f"http://{host}:{self.port}"

    @property
    def numeric(self) -> tuple[str, int]:
        """IP address and port for callers on this machine.

        Raises:
            VestalError: the host is unknown.
        """
        host = self.url.removeprefix("http://").rpartition(":")[0]
        try:
            return socket.gethostbyname(host), self.port
        except OSError as error:
            raise VestalError(f"the host {host} ({self.setting}) is unknown: {error}") from None


def check_free(endpoints: Iterable[Endpoint]) -> None:
    """Raise VestalError for the first address that cannot be bound."""
    for endpoint in endpoints:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As TorchServe does: connections in TIME_WAIT do not keep the port in use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((endpoint.host, endpoint.port))
                probe.listen(1)
            except (OSError, ValueError) as error:  # ValueError: an invalid host name
                raise VestalError(_bind_message(endpoint, error)) from None


def port_in_use_message(endpoint: Endpoint) -> str:
    """Return the message for a port on which another process listens."""
    owner = port_owner(endpoint.port)
    return (
        f"port {endpoint.port} ({endpoint.setting}) is in use{f' by {owner}' if owner else ''}. "
        "Stop that process, or choose other ports with --port N (--port 0 for free ones)"
    )


def port_owner(port: int) -> str | None:
    """Return the process that listens on a port, as `pid 12, python`; None if unknown."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid:
                with contextlib.suppress(psutil.Error):
                    return f"pid {connection.pid}, {psutil.Process(connection.pid).name()}"
                return f"pid {connection.pid}"
    return None


def free_ports(host: str, count: int) -> list[int]:
    """Return different ports that are free at the moment.

    They are below those that the kernel gives to outgoing connections and to others that ask for a
    free port, so that they are still free when a server binds them seconds later.
    """
    choose = random.SystemRandom()  # a seed of the program would give several the same ports
    candidates = iter(choose.sample(range(_FIRST, _first_ephemeral()), k=100 * count))
    with contextlib.ExitStack() as bound:
        ports: list[int] = []
        while len(ports) < count:  # each stays bound until the last is found
            probe = bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                probe.bind((host, next(candidates)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            ports.append(int(probe.getsockname()[1]))
        return ports


def _first_ephemeral() -> int:
    """The first port of outgoing connections (ip(7)); a small range is not worth avoiding."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768  # the default of Linux
    return first if first >= 2 * _FIRST else 65_536


def _bind_message(endpoint: Endpoint, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return port_in_use_message(endpoint)
    reason = getattr(error, "strerror", None) or error
    return (
        f"cannot listen on {endpoint.host}:{endpoint.port} ({endpoint.setting}): {reason}. "
        "Choose another address or port in config.properties"
    )
