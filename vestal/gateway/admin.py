"""Envoy's admin interface: its statistics, on a Unix socket that only this user can open."""

from __future__ import annotations

import http.client
import re
import socket
from pathlib import Path

from vestal.errors import VestalError

_SECONDS = 5.0
_TEXT = re.compile(r'^(\S+): "(.*)"$', re.MULTILINE)


class EnvoyAdmin:
    """Calls the admin interface; every method raises VestalError if it does not respond.

    Args:
        path: of the socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str) -> str:
        """Return the text of a page, such as `/stats?usedonly`."""
        return self._call("GET", path)

    def post(self, path: str) -> str:
        """Carry out a command, such as `/reopen_logs`."""
        return self._call("POST", path)

    def prometheus(self) -> str:
        """Return the statistics in Prometheus' text format.

        Those of a version have the label `envoy_cluster_name="MODEL/VERSION"`; the copies that a
        shadow gets have `MODEL/VERSION/shadow`.
        """
        return self.get("/stats/prometheus?usedonly")

    def texts(self) -> dict[str, str]:
        """Return the statistics that are texts, such as the version of each kind of resource."""
        return dict(_TEXT.findall(self.get("/stats?type=TextReadouts")))

    def _call(self, method: str, path: str) -> str:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise VestalError(f"Envoy's admin interface does not respond: {error!r}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise VestalError(f"Envoy's admin interface answered {response.status}: {text:.200}")
        return text


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
