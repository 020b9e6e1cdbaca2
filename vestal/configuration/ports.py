"""Where TorchServe listens: which ports, whether they are free, and who holds one that is not."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from vestal.errors import VestalError

HTTP_SETTINGS = ("inference_address", "management_address", "metrics_address")
GRPC_SETTINGS = ("grpc_inference_port", "grpc_management_port")


@dataclass(frozen=True)
class Endpoint:
    """One listening address; `setting` is its name in config.properties."""

    setting: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address to call from this machine."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", ""} else self.host  # noqa: S104 - read, not bound
        return f"http://{host}:{self.port}"


def check_free(endpoints: Iterable[Endpoint]) -> None:
    """Raises VestalError that names the first address which cannot be listened on."""
    for endpoint in endpoints:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As TorchServe binds: a connection that lingers in TIME_WAIT does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((endpoint.host, endpoint.port))
                probe.listen(1)
            except (OSError, ValueError) as error:  # ValueError: not a host name at all
                raise VestalError(_why(endpoint, error)) from None


def taken(endpoint: Endpoint) -> str:
    """The sentence for a port that another process holds."""
    held = holder(endpoint.port)
    return (
        f"port {endpoint.port} ({endpoint.setting}) is in use{f' by {held}' if held else ''}: "
        "stop that, or choose others with --port N (--port 0 takes free ones)"
    )


def holder(port: int) -> str | None:
    """The process that listens on a port (`pid 12, python`); None where that cannot be told."""
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
    """Ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):  # each is held until the last is found
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind((host, 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def _why(endpoint: Endpoint, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return taken(endpoint)
    reason = getattr(error, "strerror", None) or error
    return (
        f"{endpoint.host}:{endpoint.port} ({endpoint.setting}) cannot be listened on ({reason}): "
        "choose another address or port in config.properties"
    )
