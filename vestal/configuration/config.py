"""config.properties: the user's settings over Vestal's, and what one start lays over both.

TorchServe gets a file that is written from the values that were read, so it cannot read the user's
text differently than Vestal does.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vestal.configuration.ports import GRPC_SETTINGS, HTTP_SETTINGS, Endpoint, free_ports
from vestal.configuration.properties import Properties, read_properties, write_properties
from vestal.configuration.settings import FLAGS, PATHS, check, with_environment
from vestal.errors import UsageError
from vestal.project import Project

HERE = Path(__file__).parent
METRICS = HERE / "metrics.yaml"
LOG_CONFIG = HERE / "log4j2.xml"
_ADDRESS = re.compile(r"http://(?P<host>[\w.-]+):(?P<port>[0-9]{1,9})/?", re.ASCII | re.IGNORECASE)
_LARGEST_PORT = 65534
"""TorchServe refuses 65535."""


@dataclass(frozen=True)
class Configuration:
    """The settings of a project.

    Attributes:
        file: the settings that the user wrote, or Vestal's for a project without a file.
        values: those, and Vestal's for every key that the user did not set.
        folder: where relative paths start.
    """

    file: Properties
    values: Mapping[str, str]
    folder: Path

    @classmethod
    def load(cls, project: Project) -> Configuration:
        """The project's file, or the one that comes with the package where it has none.

        Raises:
            VestalError: it cannot be read.
            UsageError: a setting is invalid; the message names its line.
        """
        ours = read_properties(packaged())
        file = read_properties(project.config) if project.config.exists() else ours
        file = with_environment(file, os.environ)
        check(file)
        given = {k: v for k, v in file.values.items() if v.strip() or k not in PATHS}
        values = {**ours.values, **given}
        for key in FLAGS:
            if key in values:  # a worker compares the text: "True" is not "true" to it
                values[key] = values[key].lower()
        if values["metrics_config"] == ours.values["metrics_config"]:
            named = project.root / values["metrics_config"]
            values["metrics_config"] = str(named if named.is_file() else METRICS)
        # TorchServe runs in another folder.
        values |= {key: str(project.root / values[key]) for key in PATHS if key in values}
        return cls(file, values, project.root)

    @property
    def source(self) -> Path:
        return self.file.source

    @property
    def model_store(self) -> Path:
        return Path(self.values["model_store"])

    @property
    def metrics_config(self) -> Path:
        """Raises UsageError where the file that the user named does not exist."""
        path = Path(self.values["metrics_config"])
        if not path.is_file():
            raise self.file.refuse("metrics_config", f"an existing file, but there is no {path}")
        return path

    @property
    def tokens(self) -> bool:
        return not self.flag("disable_token_authorization")

    @property
    def java_options(self) -> list[str]:
        """`vmargs`, without a log configuration: failed workers are found through Vestal's own."""
        words = shlex.split(self.values["vmargs"])
        return [word for word in words if not word.startswith("-Dlog4j.configurationFile=")]

    def flag(self, key: str) -> bool:
        """A setting that is true or false, and false where it is not set."""
        return self.values.get(key) == "true"

    def integer(self, key: str) -> int:
        """A setting of `settings.INTEGERS` that Vestal's own file or the user's sets."""
        return int(self.values[key])

    def endpoints(self, port: int | None = None) -> list[Endpoint]:
        """The five listening addresses: inference, management, metrics, then the two of gRPC.

        `port`: None takes the file's ports; N gives inference N, management N+1, metrics N+2 and
        gRPC free ones; 0 gives free ones to all.
        Raises UsageError where a setting or the port is not one.
        """
        endpoints = [*map(self._http, HTTP_SETTINGS), *map(self._grpc, GRPC_SETTINGS)]
        if port is not None:
            if not 0 <= port <= _LARGEST_PORT - 2:
                raise UsageError(
                    f"--port {port}: expected 0 (free ports) or 1 to {_LARGEST_PORT - 2}; "
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
        return write_properties(
            {
                **self.values,
                **{each.setting: f"http://{each.host}:{each.port}" for each in http},
                **{each.setting: str(each.port) for each in grpc},
                "model_store": str(model_store),
                "metrics_config": str(self.metrics_config),
                # Off by default (405), and we register through it; its token guards it.
                "enable_model_api": "true",
                # TorchServe would load them with one worker a core; we register and watch each.
                "load_models": "",
                # The environment's settings are in here already.
                "enable_envvars_config": "false",
            }
        )

    def _http(self, setting: str) -> Endpoint:
        address = _ADDRESS.fullmatch(self.values[setting])
        if address is None or not 1 <= int(address["port"]) <= _LARGEST_PORT:
            raise self.file.refuse(
                setting,
                f"http://HOST:PORT with a port from 1 to {_LARGEST_PORT} "
                "(vestal serve has no TLS: put a proxy in front)",
            )
        return Endpoint(setting, address["host"], int(address["port"]))

    def _grpc(self, setting: str) -> Endpoint:
        host = self.values[setting.replace("_port", "_address")]
        return Endpoint(setting, host, self.integer(setting))


def packaged() -> Path:
    """Vestal's own config.properties: in a wheel beside this module, else in the repository."""
    beside = HERE / "config.properties"
    return beside if beside.exists() else HERE.parents[1] / "config.properties"
