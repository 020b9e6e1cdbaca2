"""Reads the gateway's keys and certificates again whenever their files change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vestal.client import ClientError
from vestal.client.tokens import KeyFile
from vestal.errors import VestalError
from vestal.fleet.api_keys import read_clients
from vestal.gateway.settings import Gateway
from vestal.gateway.setup import Secrets

_UNKNOWN = "unknown"
"""TorchServe's token until it has written its key file."""


class SecretFiles:
    """The files of the gateway's secrets. One that becomes invalid leaves the last valid content.

    Args:
        key_file: TorchServe's key file; None if it requires no tokens.
        complain: receives a sentence about each file that cannot be used.
    """

    def __init__(self, key_file: Path | None, complain: Callable[[str], None]) -> None:
        self._keys = KeyFile(key_file) if key_file else None
        self._token = _UNKNOWN
        self._complain = complain
        self._read: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._problems: dict[tuple[str, ...], str] = {}

    def read(self, settings: Gateway) -> Secrets:
        """Return the current content.

        Raises:
            VestalError: a file has never been valid.
        """
        certificate = private_key = clients = None
        if settings.api_keys is not None:
            file = Path(settings.api_keys)
            clients = self._current((settings.api_keys,), lambda: read_clients(file))
        if settings.tls is not None:
            files = settings.tls.certificate, settings.tls.key
            certificate, private_key = self._current(files, lambda: _texts(files))
        return Secrets(self._current_token(), clients, certificate, private_key)

    @property
    def problem(self) -> str | None:
        """Which file cannot be used."""
        return "; ".join(self._problems.values()) or None

    def _current_token(self) -> str | None:
        if self._keys is None:
            return None
        with contextlib.suppress(ClientError):  # TorchServe is starting
            self._token = self._keys.get("inference") or _UNKNOWN
        return self._token

    def _current(self, files: tuple[str, ...], read: Callable[[], Any]) -> Any:
        stamps = [_stamp(file) for file in files]
        before, value = self._read.get(files, (None, None))
        if stamps != before:
            self._problems.pop(files, None)
            try:
                value = read()
            except (VestalError, OSError, ValueError) as error:
                if before is None:
                    raise VestalError(str(error)) from None
                self._problems[files] = f"{error}; the gateway continues with the previous content"
                self._complain(self._problems[files])
            self._read[files] = (stamps, value)
        return value


def _texts(files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(Path(file).read_text("utf-8") for file in files)


def _stamp(file: str) -> tuple[int, int, int] | None:
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
