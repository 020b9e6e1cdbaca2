"""The keeper's API on a port: uvicorn in a thread of `vestal serve`."""

from __future__ import annotations

import socket
import threading

import uvicorn

from vestal.configuration.ports import KEEPER_SETTING, Endpoint, check_free
from vestal.errors import VestalError
from vestal.fleet.api import create_app
from vestal.fleet.control import KeeperControl

_START_SECONDS = 10.0
_STOP_SECONDS = 2.0


class ApiServer:
    """Serves the keeper's API, from `start` to `stop`.

    Args:
        token: the bearer token of the API.
        host, port: the address to listen on; port 0 takes a free one.
    """

    def __init__(self, control: KeeperControl, token: str, host: str, port: int) -> None:
        self._stopping = threading.Event()
        self._host, self._port = host, port
        app = create_app(control, token, host=host, stopping=self._stopping.is_set)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,  # warnings and errors go where the process logs
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base address for callers on this machine."""
        return Endpoint(KEEPER_SETTING, self._host, self._port).url

    def start(self) -> None:
        """Listen and serve in a thread.

        Raises:
            VestalError: the address cannot be bound.
        """
        if self._port:
            check_free(
                [Endpoint(KEEPER_SETTING, self._host, self._port)]
            )  # names the other process
        try:
            listening = socket.create_server((self._host, self._port), backlog=128)
        except OSError as error:
            raise VestalError(
                f"cannot listen on {self._host}:{self._port} ({KEEPER_SETTING}): {error.strerror}"
            ) from None
        self._port = listening.getsockname()[1]
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="vestal-api", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End open event streams and stop; a second call does nothing."""
        self._stopping.set()
        self._server.should_exit = True
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_STOP_SECONDS)
