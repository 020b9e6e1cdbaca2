"""Addresses and tokens of a client: from its arguments, or from a ready file."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from vestal.client.errors import ConnectionFailed, InvalidAddress, NoAddress
from vestal.client.tokens import Api, FixedToken, KeyFile, NoToken, Tokens
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.project import Phase, ReadyFile

TOKEN_VARIABLE = "VESTAL_TOKEN"  # noqa: S105  the variable's name

_EXAMPLE = "http://127.0.0.1:8080"
_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_START = "`vestal serve` starts one here. For another server, pass its address"


class Addresses(NamedTuple):
    """Base addresses without a trailing slash; None if the client does not have it.

    `own`: they are from the ready file, so the server runs on this machine.
    """

    inference: str | None
    management: str | None
    metrics: str | None
    own: bool = False

    def of(self, api: Api) -> str:
        """Return the address of an API; raises NoAddress if it is unknown."""
        address: str | None = getattr(self, api)
        if address is None:
            argument = "url" if api == "inference" else api
            raise NoAddress(
                f"this call needs the {api} address, and this client has none",
                hint=f'Pass it: Client({argument}="http://host:port")',
            )
        return address

    def known(self) -> tuple[str, ...]:
        return tuple(a for a in (self.inference, self.management, self.metrics) if a)


def resolve(
    url: str | None,
    management: str | None,
    metrics: str | None,
    key_file: str | os.PathLike[str] | None,
    token: str | None,
) -> tuple[Addresses, Tokens]:
    """Resolve the arguments, then VESTAL_TOKEN; without an address, read the ready file."""
    if token is not None and key_file is not None:
        raise UsageError("token and key_file were both passed; pass only one of them")
    ready = None
    if url is None and management is None and metrics is None:
        from vestal.project import Project  # not needed with an address

        ready = read_ready_file(Project.here().ready_file)
        url, management, metrics = ready.inference, ready.management, ready.metrics
    addresses = Addresses(
        _address("url", url),
        _address("management", management),
        _address("metrics", metrics),
        own=ready is not None,
    )
    return addresses, _tokens(key_file, token, ready)


def _tokens(
    key_file: str | os.PathLike[str] | None, token: str | None, ready: ReadyFile | None
) -> Tokens:
    if token is not None:
        return FixedToken(token, "the argument token")
    if key_file is not None:
        return KeyFile(Path(key_file).absolute())
    if variable := os.environ.get(TOKEN_VARIABLE):
        return FixedToken(variable, f"the environment variable {TOKEN_VARIABLE}")
    if ready is not None and ready.key_file is not None:
        return KeyFile(Path(ready.key_file))
    return NoToken()


def read_ready_file(path: Path) -> ReadyFile:
    """Read the ready file of a running server; raises ConnectionFailed if there is none."""
    from dataclasses import replace

    from vestal.project import ReadyFile

    try:
        ready = ReadyFile.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise _not_ready(path) from None
    if not _is_running(ready.pid):
        raise ConnectionFailed(
            f"no server runs here: the server of {path} (process {ready.pid}) has ended",
            hint=_START,
        )
    if ready.key_file is not None:
        # A relative path starts at the project's folder.
        ready = replace(ready, key_file=str(path.parent.parent / ready.key_file))
    return ready


def phase_near(ready_file: Path) -> Phase | None:
    """Return the phase of a server that is starting or stopping, if there is one."""
    from vestal.project import PHASE_FILE, Phase

    try:
        phase = Phase(**json.loads(ready_file.with_name(PHASE_FILE).read_text(encoding="utf-8")))
        return phase if _is_running(phase.pid) else None
    except (OSError, ValueError, TypeError):
        return None


def _not_ready(ready_file: Path) -> ConnectionFailed:
    phase = phase_near(ready_file)
    if phase is None:
        text = f"no server runs here: there is no {ready_file}"
        return ConnectionFailed(text, hint=_START)
    since = time.strftime("%H:%M:%S", time.localtime(phase.since))
    hint = "Try again when `vestal serve` prints Ready"
    if phase.phase != "starting":
        hint = "Start another one with `vestal serve` when it has ended"
    return ConnectionFailed(
        f"the server of this project is {phase.phase} (since {since}, process {phase.pid})",
        hint=hint,
    )


def model_store_of(addresses: Addresses, tokens: Tokens) -> Path | None:
    """Return the server's model store if its ready file is on this machine.

    The ready file is in the folder of the key file, or in the project of the current folder.
    """
    from vestal.project import Project, ReadyFile

    here = Project.here().ready_file
    beside = [tokens.path.with_name(here.name)] if isinstance(tokens, KeyFile) else []
    for path in (*beside, here):
        try:
            ready = ReadyFile.read(path)
        except (OSError, VestalError):
            continue
        same = ready.management == addresses.management
        if same and ready.model_store is not None:
            return Path(ready.model_store)
    return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs as another user
    return pid > 0


def _address(name: str, address: str | None) -> str | None:
    """Return an address without a trailing slash; raises InvalidAddress."""
    if address is None:
        return None
    if not isinstance(address, str):
        raise InvalidAddress(f"{name} is {address!r}: expected a str such as {_EXAMPLE}")
    if wrong := _what_is_wrong(address):
        # The message does not show an address that may hold a password.
        shown = name if "@" in address else f"{name} is {address!r}"
        raise InvalidAddress(f"{shown}: {wrong}")
    return address.rstrip("/")


def _what_is_wrong(address: str) -> str | None:
    if not _PRINTABLE.fullmatch(address):
        return "expected ASCII characters without spaces; write others as %XX, hosts as xn--..."
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").removesuffix(".")
    except ValueError as error:
        return f"{error}; expected a URL such as {_EXAMPLE}"
    if parts.scheme not in ("http", "https"):
        meant = f"http://{address}"
        bare = "://" not in address and _what_is_wrong(meant) is None
        return f"expected {meant}" if bare else f"expected http:// or https://, as in {_EXAMPLE}"
    if parts.username is not None or parts.password is not None:
        return "expected no user and no password; pass a token with token="
    if not host:
        return f"expected a host, as in {_EXAMPLE}"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        return "expected a port from 1 to 65535"
    if parts.query or parts.fragment or "?" in address or "#" in address:
        return "expected no ? and no #"
    if "\\" in address or {".", ".."} & set(parts.path.split("/")):
        return "expected a path without backslashes, '.' and '..'"
    return None if ":" in host else _what_is_wrong_with_host(host)


def _what_is_wrong_with_host(host: str) -> str | None:
    if not all(0 < len(label) < 64 for label in host.split(".")):
        return "expected a host whose parts between dots have 1 to 63 letters"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        return "expected a host of letters, digits, dots and hyphens"
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return "expected an IPv4 address of four numbers from 0 to 255"
    return None
