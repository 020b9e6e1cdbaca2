"""One Envoy process and its files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from vestal.errors import VestalError
from vestal.gateway import envoy
from vestal.gateway.admin import EnvoyAdmin
from vestal.gateway.bootstrap import BOOTSTRAP, bootstrap, resources, static_bootstrap
from vestal.gateway.protos import Config
from vestal.gateway.setup import Setup
from vestal.server.guarded import GuardedProcess
from vestal_handlers.cores import cores

_START_SECONDS = 20.0
_ADOPT_SECONDS = 10.0
"""Time in which Envoy reads a file that was replaced; it takes milliseconds."""
_POLL_SECONDS = 0.01
_VALIDATE_SECONDS = 30.0
_DRAIN_SECONDS = 30
"""Time after which connections are closed whose listener was changed."""
_CANDIDATE = "candidate.json"
_CLUSTERS = "clusters.json"
_TOKEN_FILE = "token.json"  # noqa: S105
_PLACE = re.compile(r"^(\[[^]]*\] ?)+(error initializing configuration '[^']*': )?")
_VERSIONS = {
    "listeners.json": "listener_manager.lds.version_text",
    "clusters.json": "cluster_manager.cds.version_text",
    "routes.json": "http.gateway.rds.gateway.version_text",
    "api_keys.json": "extension_config_discovery.http_filter.api_keys.version_text",
    "token.json": "sds.torchserve_token.version_text",
    "certificate.json": "sds.certificate.version_text",
}
"""Statistic with the version of each file that Envoy uses."""
# Its warning about filters that are "work in progress" comes for each message.
_LOG = ("--log-level", "warning", "--component-log-level", "misc:error")


class EnvoyProcess:
    """Runs Envoy from its creation until `stop`, or until this process ends.

    Its files are in the temporary folder of its guardian, because they contain secrets.

    Args:
        output: file for Envoy's own messages.
        lock: file descriptor that the guardian keeps open until everything is removed.

    Raises:
        VestalError: Envoy is not installed or cannot be started.
    """

    def __init__(self, output: Path, lock: int) -> None:
        program = envoy.find_envoy()
        if program is None:
            raise VestalError(envoy.MISSING)
        self._program, self._output = program, output
        self._guarded = GuardedProcess("Envoy", [], lock)
        self._fixed: tuple[Config, str, int] | None = None
        self._written: dict[str, list[Config]] = {}
        self._expected: dict[str, str] = {}
        """Versions by file."""
        self._number = 0
        self.admin = EnvoyAdmin(self.admin_path)

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self._guarded.folder

    @property
    def admin_path(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def pid(self) -> int:
        return self._guarded.pid

    def start(self, setup: Setup) -> None:
        """Start Envoy and wait until it listens. Raises VestalError if it does not."""
        self._validate(setup)
        self._fixed = _fixed(setup)
        _write(self.folder / BOOTSTRAP, bootstrap(setup))
        files = resources(setup)
        self._write_changed(files)
        self._guarded.start(
            [
                *(str(self._program), "-c", str(self.folder / BOOTSTRAP)),
                *("--disable-hot-restart", "--drain-time-s", str(_DRAIN_SECONDS)),
                # The workers need the other cores; more threads only switch between them.
                *("--concurrency", str(max(1, int(cores() / 2)))),
                *("--file-flush-interval-msec", "1000", *_LOG),
            ],
            os.environ,
            cwd=self.folder,
            output=self._output,
        )
        self._wait_until_adopted(files, _START_SECONDS)

    def update(self, setup: Setup) -> bool:
        """Change the configuration and wait until Envoy uses it; False if it is the same already.

        Connections and requests in progress are not affected, unless the settings of the listener
        change.

        Raises:
            VestalError: the configuration is invalid, or Envoy did not adopt it. It continues with
                the previous one.
        """
        files = resources(setup)
        changed = {name for name, each in files.items() if self._written.get(name) != each}
        if not changed:
            return False
        if changed != {_TOKEN_FILE}:  # until Envoy has the new token, TorchServe refuses requests
            self._validate(setup)
        # A cluster exists before a route leads to it, and until no route does.
        old, new = self._written[_CLUSTERS], files[_CLUSTERS]
        names = {each["name"] for each in new}
        union = [*new, *(each for each in old if each["name"] not in names)]
        for step in ({_CLUSTERS: union}, {**files, _CLUSTERS: union}, files):
            self._write_changed(step)
            self._wait_until_adopted(step, _ADOPT_SECONDS)
        return True

    def needs_restart(self, setup: Setup) -> bool:
        """Whether a change needs a new process: its own settings or its address differ."""
        return self._fixed != _fixed(setup)

    def ended(self, seconds: float) -> str | None:
        """Wait for the end; return how it ended, or None at the time limit."""
        return self._guarded.ended(seconds)

    def stop(self) -> None:
        """End the process and remove its files; a second call does nothing."""
        self._guarded.stop()

    def _validate(self, setup: Setup) -> None:
        candidate = self.folder / _CANDIDATE
        _write(candidate, static_bootstrap(setup))
        try:
            done = subprocess.run(
                [str(self._program), "--mode", "validate", "-c", str(candidate), *_LOG],
                capture_output=True,
                text=True,
                timeout=_VALIDATE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise VestalError(f"Envoy cannot check its configuration: {error}") from None
        finally:
            candidate.unlink()
        if done.returncode != 0:
            raise VestalError(f"the gateway's configuration is invalid: {_reason(done.stderr)}")

    def _write_changed(self, files: Mapping[str, list[Config]]) -> None:
        for name, content in files.items():
            if self._written.get(name) != content:
                self._number += 1
                version = str(self._number)
                _write(self.folder / name, {"version_info": version, "resources": content})
                self._written[name] = content
                self._expected[name] = version

    def _wait_until_adopted(self, names: Iterable[str], seconds: float) -> None:
        expected = {_VERSIONS[name]: self._expected[name] for name in names}
        deadline = time.monotonic() + seconds
        while True:
            reason = self.ended(0)
            if reason is not None:
                raise VestalError(f"Envoy ended ({reason}): {_reason(self._log())}")
            with contextlib.suppress(VestalError):  # it does not listen yet
                if expected.items() <= self.admin.texts().items():
                    return
            if time.monotonic() > deadline:
                raise VestalError(
                    f"Envoy did not adopt its configuration within {seconds:g} s: "
                    f"{_reason(self._log())}"
                )
            time.sleep(_POLL_SECONDS)

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return self._output.read_text("utf-8", "replace")
        return ""


def _fixed(setup: Setup) -> tuple[Config, str, int]:
    return bootstrap(setup), setup.settings.address, setup.port


def _write(file: Path, content: Config) -> None:
    """Write a file that only its owner can read; Envoy notices the rename."""
    new = file.with_name(f".{file.name}.partial")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
    new.replace(file)


def _reason(log: str) -> str:
    """Return the last message of Envoy's log, without time and place."""
    lines = log.strip().splitlines()
    return _PLACE.sub("", lines[-1]) if lines else "no message"
