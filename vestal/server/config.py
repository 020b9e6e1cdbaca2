"""config.properties: the user's settings, and what one start lays over them.

The effective file is the user's text with our lines behind it: in Java's properties the last value
of a key counts, so whatever TorchServe understands in the user's part stays as it was.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.server.ports import GRPC_SETTINGS, HTTP_SETTINGS, Endpoint, free_ports

HERE = Path(__file__).parent
METRICS = HERE / "metrics.yaml"
LOG_CONFIG = HERE / "log4j2.xml"
_METRICS_AS_SHIPPED = "vestal/server/metrics.yaml"
_ADDRESS = re.compile(r"http://(?P<host>[\w.-]+):(?P<port>\d+)/?")
_HTTP_PORTS = (8080, 8081, 8082)
_GRPC_PORTS = (7070, 7071)
_NOTHING = "nothing"


@dataclass(frozen=True)
class Configuration:
    """A config.properties as read. `text` is Latin-1, as Java reads it."""

    source: Path
    text: str
    values: Mapping[str, str]
    folder: Path

    @classmethod
    def load(cls, project: Project) -> Configuration:
        """The project's file, or the one that comes with the package where it has none.

        Raises VestalError where it cannot be read.
        """
        source = project.config if project.config.exists() else _packaged()
        try:
            text = source.read_text(encoding="latin-1")
        except OSError as error:
            raise VestalError(f"{source} cannot be read ({error.strerror})") from None
        return cls(source, text, parse(text), project.root)

    @property
    def model_store(self) -> Path:
        return self.folder / self.values.get("model_store", "model_store")

    @property
    def metrics_config(self) -> Path:
        """Raises UsageError where the file that the user named is not there."""
        named = self.values.get("metrics_config", _METRICS_AS_SHIPPED)
        path = self.folder / named
        if path.is_file():
            return path
        if named == _METRICS_AS_SHIPPED:
            return METRICS
        raise UsageError(f"{self.source}: metrics_config names {path}, which is not there")

    @property
    def tokens(self) -> bool:
        return self.values.get("disable_token_authorization", "false").lower() != "true"

    @property
    def java_options(self) -> list[str]:
        """`vmargs`, without a log configuration: failed workers are found through Vestal's own."""
        words = shlex.split(self.values.get("vmargs", ""))
        return [word for word in words if not word.startswith("-Dlog4j.configurationFile=")]

    def endpoints(self, port: int | None = None) -> list[Endpoint]:
        """The five listening addresses: inference, management, metrics, then the two of gRPC.

        `port`: None takes the file's ports; N gives inference N, management N+1, metrics N+2 and
        gRPC free ones; 0 gives free ones to all.
        Raises UsageError where a setting or the port is not one.
        """
        http = [self._http(*pair) for pair in zip(HTTP_SETTINGS, _HTTP_PORTS, strict=True)]
        grpc = [self._grpc(*pair) for pair in zip(GRPC_SETTINGS, _GRPC_PORTS, strict=True)]
        endpoints = [*http, *grpc]
        if port is not None:
            if not 0 <= port <= 65533:
                raise UsageError(
                    f"--port {port}: expected 0 (free ports) or 1 to 65533; "
                    "management and metrics take the two ports after it"
                )
            if port == 0:
                ports = free_ports("127.0.0.1", 5)
            else:
                given = [port, port + 1, port + 2]
                free = [free for free in free_ports("127.0.0.1", 5) if free not in given]
                ports = [*given, *free[:2]]
            endpoints = [
                Endpoint(old.setting, old.host, new)
                for old, new in zip(endpoints, ports, strict=True)
            ]
        by_port: dict[int, str] = {}
        for endpoint in endpoints:
            # On one port for two purposes TorchServe mixes up tokens and versioned calls.
            other = by_port.setdefault(endpoint.port, endpoint.setting)
            if other != endpoint.setting:
                raise UsageError(
                    f"{self.source}: {other} and {endpoint.setting} are both on port "
                    f"{endpoint.port}, expected one port for each"
                )
        return endpoints

    def effective(self, endpoints: list[Endpoint], model_store: Path) -> str:
        """The text of the file that TorchServe gets."""
        http, grpc = endpoints[:3], endpoints[3:]
        lines = {
            **{each.setting: f"http://{each.host}:{each.port}" for each in http},
            **{each.setting: str(each.port) for each in grpc},
            "model_store": str(model_store),
            "metrics_config": str(self.metrics_config),
            # Off by default (405), and we register through it; its token guards it.
            "enable_model_api": "true",
            # TorchServe would load them with one worker a core; we register and watch each.
            "load_models": "",
            # Where nothing is said, TorchServe allows every URL (CVE-2023-43654).
            "allowed_urls": self.values.get("allowed_urls", _NOTHING),
        }
        ours = "".join(f"{key}={_escape(value)}\n" for key, value in lines.items())
        return f"{self.text}\n\n# Laid over it by vestal serve:\n{ours}"

    def _http(self, setting: str, default: int) -> Endpoint:
        value = self.values.get(setting, f"http://127.0.0.1:{default}")
        address = _ADDRESS.fullmatch(value)
        if address is None:
            raise UsageError(
                f"{self.source}: {setting} is {value!r}, expected http://HOST:PORT "
                "(TLS belongs to the gateway in front)"
            )
        return Endpoint(setting, address["host"], int(address["port"]))

    def _grpc(self, setting: str, default: int) -> Endpoint:
        value = self.values.get(setting, str(default))
        if not value.isdecimal():
            raise UsageError(f"{self.source}: {setting} is {value!r}, expected a port number")
        host = self.values.get(setting.replace("_port", "_address"), "127.0.0.1")
        return Endpoint(setting, host, int(value))


def parse(text: str) -> dict[str, str]:
    """The keys and values of a properties file, as far as one `key=value` a line goes."""
    values = {}
    for line in text.splitlines():
        line = line.strip()
        if line and line[0] not in "#!":
            key, equals, value = line.partition("=")
            if equals:
                values[key.strip()] = value.strip()
    return values


def _packaged() -> Path:
    """In a wheel it lies beside this module; in a checkout it is the repository's own."""
    beside = HERE / "config.properties"
    return beside if beside.exists() else HERE.parents[1] / "config.properties"


def _escape(value: str) -> str:
    """Java reads a properties file as Latin-1: everything else is written as UTF-16 escapes."""
    units = value.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
    return "".join(
        chr(code) if 0x20 < code < 0x7F and chr(code) != "\\" else f"\\u{code:04x}"
        for code in codes
    )
