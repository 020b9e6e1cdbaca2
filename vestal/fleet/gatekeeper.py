"""Runs the gateway as desired: starts Envoy, changes its configuration, starts it again."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vestal.configuration.ports import port_owner
from vestal.errors import VestalError
from vestal.fleet.actual import Actual
from vestal.fleet.desired import Desired
from vestal.fleet.gateway_routes import model_routes
from vestal.fleet.gateway_secrets import SecretFiles
from vestal.fleet.status import EventKind, GatewayStatus
from vestal.gateway.admin import EnvoyAdmin
from vestal.gateway.process import EnvoyProcess
from vestal.gateway.settings import Gateway
from vestal.gateway.setup import Setup

_ROUND_SECONDS = 0.05
"""Time until a new token or a changed file is noticed."""
_IDLE_SECONDS = 1.0
_PAUSES = (0.0, 1.0, 5.0)
"""Seconds before each attempt to start Envoy after failures."""
_STEADY_SECONDS = 60.0
_ACCESS_LOG = "gateway_access.log"
_MOST_LOG_BYTES = 20_000_000
"""Size at which the access log is renamed; one older file is kept."""


@dataclass(frozen=True)
class Surroundings:
    """What the gateway stands between.

    Attributes:
        torchserve, keeper: host and port of TorchServe's inference API and of the keeper's API.
        max_body: bytes, if serving.yaml does not set it.
        key_file: TorchServe's; None if it requires no tokens.
        logs: folder of the access log and of Envoy's messages.
        lock: file descriptor of the project's lock.
    """

    torchserve: tuple[str, int]
    keeper: tuple[str, int]
    max_body: int
    key_file: Path | None
    logs: Path
    lock: int


class Gatekeeper:
    """Keeps the gateway running, in a thread from `start` to `stop`. Thread-safe.

    Args:
        report: receives events.
    """

    def __init__(
        self, surroundings: Surroundings, report: Callable[[EventKind, str], None]
    ) -> None:
        self._surroundings, self._report = surroundings, report
        self._secrets = SecretFiles(
            surroundings.key_file, lambda text: report("note", f"gateway: {text}")
        )
        self._desired, self._actual = Desired(), Actual()
        self._withdrawn: frozenset[tuple[str, str]] = frozenset()
        self._process: EnvoyProcess | None = None
        self._port: dict[str, int] = {}
        self._applied: Setup | None = None
        self._refused: Setup | None = None
        self._problem: str | None = None
        self._restarts, self._failures, self._next_start = 0, 0, 0.0
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vestal-gateway", daemon=True)

    def start(self, desired: Desired) -> None:
        """Start the gateway, if one is desired. Raises VestalError if it cannot be started."""
        with self._lock:
            self._desired = desired
            if desired.gateway is not None:
                self._start_process(desired.gateway)
        self._thread.start()

    def stop(self) -> None:
        """End the gateway; a second call does nothing."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            self._end_process()

    def observe(self, desired: Desired, actual: Actual) -> None:
        """Take over what is desired and what runs, and change the configuration."""
        with self._lock:
            self._desired, self._actual = desired, actual
            self._withdrawn = frozenset(
                (name, version)
                for name, version in self._withdrawn
                if name in actual.models and version in actual.models[name].versions
            )
            self._round()

    def withdraw(self, model: str, version: str) -> None:
        """Send no more requests to a version that is about to be removed."""
        with self._lock:
            self._withdrawn |= {(model, version)}
            self._round()

    def restore(self, model: str, version: str) -> None:
        """Take back `withdraw`: the version was not removed, or is registered again."""
        with self._lock:
            self._withdrawn -= {(model, version)}

    @property
    def status(self) -> GatewayStatus | None:
        """The state of the gateway; None if none is desired."""
        settings, process, setup = self._desired.gateway, self._process, self._applied
        if settings is None:
            return None
        is_running = process is not None and setup is not None
        return GatewayStatus(
            url=_url(settings, self._port_of(settings)),
            running=is_running,
            restarts=self._restarts,
            problem=self.problem,
            files=str(process.folder) if process and is_running else None,
        )

    @property
    def problem(self) -> str | None:
        """Why the gateway does not run as desired; None if it does."""
        return self._problem or self._secrets.problem

    @property
    def admin(self) -> EnvoyAdmin | None:
        """Envoy's admin interface; None while it is not running."""
        process = self._process
        return None if process is None else process.admin

    def metrics(self) -> str:
        """Return Envoy's metrics in Prometheus' text format; empty while it is not running."""
        admin = self.admin
        if admin is not None:
            with contextlib.suppress(VestalError):  # it has just ended
                return admin.prometheus()
        return ""

    def _run(self) -> None:
        while not self._stopped.wait(_ROUND_SECONDS if self._desired.gateway else _IDLE_SECONDS):
            with self._lock:
                self._round()

    def _round(self) -> None:
        if self._stopped.is_set():
            return
        try:
            self._keep_up()
        except (VestalError, OSError) as error:
            self._complain(str(error))

    def _keep_up(self) -> None:
        settings, process = self._desired.gateway, self._process
        if settings is None:
            self._end_process()
            self._problem = None
        elif process is None:
            if time.monotonic() >= self._next_start:
                self._start_process(settings)
        elif (reason := process.ended(0)) is not None:
            self._end_process()
            self._restarts += 1
            self._report("repair", f"Envoy ended ({reason}); starting it again")
        else:
            self._change(process, settings)
            self._bound_access_log(process)

    def _start_process(self, settings: Gateway) -> None:
        self._plan_next_start()
        _check_free(settings.address, self._port_of(settings))
        process = EnvoyProcess(self._surroundings.logs / "gateway.log", self._surroundings.lock)
        try:
            setup = self._setup(settings, process)
            process.start(setup)
        except BaseException:
            process.stop()
            raise
        self._process, self._applied, self._refused, self._problem = process, setup, None, None

    def _change(self, process: EnvoyProcess, settings: Gateway) -> None:
        setup = self._setup(settings, process)
        if setup == self._refused or (setup == self._applied and self._problem is None):
            return
        if process.needs_restart(setup):
            if self._applied is None or _address(setup) != _address(self._applied):
                _check_free(*_address(setup))  # before the old process ends
            self._end_process()
            self._start_process(settings)
            return
        try:
            process.update(setup)
        except VestalError as error:
            self._refused = setup
            self._complain(f"{error}; the gateway continues with the previous configuration")
        else:
            self._applied, self._refused, self._problem = setup, None, None

    def _setup(self, settings: Gateway, process: EnvoyProcess) -> Setup:
        around = self._surroundings
        return Setup(
            settings=settings,
            port=self._port_of(settings),
            torchserve=around.torchserve,
            keeper=around.keeper,
            max_body=settings.max_body or around.max_body,
            folder=process.folder,
            admin=process.admin_path,
            access_log=around.logs / _ACCESS_LOG,
            models=model_routes(self._desired, self._actual, self._withdrawn),
            secrets=self._secrets.read(settings),
        )

    def _end_process(self) -> None:
        process, self._process, self._applied = self._process, None, None
        if process is not None:
            process.stop()

    def _plan_next_start(self) -> None:
        now = time.monotonic()
        if now > self._next_start + _STEADY_SECONDS:
            self._failures = 0
        self._next_start = now + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1

    def _port_of(self, settings: Gateway) -> int:
        if settings.port:
            return settings.port
        if settings.address not in self._port:
            with _bound(settings.address, 0) as free:
                self._port[settings.address] = free.getsockname()[1]
        return self._port[settings.address]

    def _bound_access_log(self, process: EnvoyProcess) -> None:
        log = self._surroundings.logs / _ACCESS_LOG
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _MOST_LOG_BYTES:
                log.replace(log.with_name(f"{_ACCESS_LOG}.1"))
                process.admin.post("/reopen_logs")

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._report("note", f"gateway: {problem}")
        self._problem = problem


def _url(settings: Gateway, port: int) -> str:
    """Return the base address for callers on this machine."""
    address = ipaddress.ip_address(settings.address)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{'https' if settings.tls else 'http'}://{host}:{port}"


def _check_free(address: str, port: int) -> None:
    """Raise VestalError if the address cannot be bound; Envoy would only log it."""
    try:
        _bound(address, port).close()
    except OSError as error:
        reason = f"cannot be used ({error.strerror})"
        if error.errno == errno.EADDRINUSE:
            owner = port_owner(port)
            reason = f"is in use{f' by {owner}' if owner else ''}"
        raise VestalError(
            f"{address}, port {port}, of the gateway {reason}. Choose another `address` or `port` "
            "under `gateway:`"
        ) from None


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def _address(setup: Setup) -> tuple[str, int]:
    return setup.settings.address, setup.port
