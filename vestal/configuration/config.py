"""The settings of a project: config.properties, Vestal's defaults, and the values of a start.

TorchServe gets a file that is written from the parsed values, so it cannot interpret the user's
file differently than Vestal does.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vestal.configuration.ports import (
    GRPC_SETTINGS,
    HTTP_SETTINGS,
    KEEPER_SETTING,
    Endpoint,
    free_ports,
)
from vestal.configuration.properties import Properties, read_properties, write_properties
from vestal.configuration.settings import FLAGS, PATHS, apply_environment, check_settings
from vestal.errors import UsageError
from vestal.project import Project

HERE = Path(__file__).parent
METRICS = HERE / "metrics.yaml"
LOG_CONFIG = HERE / "log4j2.xml"
_ADDRESS = re.compile(r"http://(?P<host>[\w.-]+):(?P<port>[0-9]{1,9})/?", re.ASCII | re.IGNORECASE)
_HIGHEST_PORT = 65534
"""TorchServe refuses 65535."""


@dataclass(frozen=True)
class Configuration:
    """The settings of a project.

    Attributes:
        file: settings of the project's file, or of Vestal's if the project has none.
        values: those settings, completed with Vestal's.
        folder: base of relative paths.
    """

    file: Properties
    values: Mapping[str, str]
    folder: Path

    @classmethod
    def load(cls, project: Project) -> Configuration:
        """Load the project's file, or Vestal's if the project has none.

        Raises:
            VestalError: the file cannot be read.
            UsageError: a setting is invalid; the message names its line.
        """
        defaults = read_properties(default_file())
        file = read_properties(project.config) if project.config.exists() else defaults
        file = apply_environment(file, os.environ)
        check_settings(file)
        non_empty = {k: v for k, v in file.values.items() if v.strip() or k not in PATHS}
        values = {**defaults.values, **non_empty}
        for key in FLAGS:
            if key in values:  # workers compare with "true"
                values[key] = values[key].lower()
        if values["metrics_config"] == defaults.values["metrics_config"]:
            own = project.root / values["metrics_config"]
            values["metrics_config"] = str(own if own.is_file() else METRICS)
        # TorchServe's working folder is not the project.
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
        """The metrics file. Raises UsageError if it does not exist."""
        path = Path(self.values["metrics_config"])
        if not path.is_file():
            raise self.file.invalid("metrics_config", f"an existing file, but there is no {path}")
        return path

    @property
    def tokens(self) -> bool:
        return not self.flag("disable_token_authorization")

    @property
    def java_options(self) -> list[str]:
        """`vmargs` without a log configuration; Vestal's own shows which workers failed."""
        options = shlex.split(self.values["vmargs"])
        return [each for each in options if not each.startswith("-Dlog4j.configurationFile=")]

    def flag(self, key: str) -> bool:
        """Return a setting that is true or false; false if it is not set."""
        return self.values.get(key) == "true"

    def integer(self, key: str) -> int:
        """Return a setting of `settings.INTEGERS`; it must be in the file or Vestal's defaults."""
        return int(self.values[key])

    def endpoints(self, port: int | None = None) -> list[Endpoint]:
        """Return the listening addresses: inference, management, metrics, two for gRPC.

        Args:
            port: None for the file's ports; N for inference on N, management on N+1, metrics on
                N+2 and gRPC on free ports; 0 for free ports only.

        Raises:
            UsageError: an address or a port is invalid.
        """
        endpoints = [*map(self._http, HTTP_SETTINGS), *map(self._grpc, GRPC_SETTINGS)]
        if port is not None:
            if not 0 <= port <= _HIGHEST_PORT - 2:
                raise UsageError(
                    f"--port {port}: expected 0 (free ports) or 1 to {_HIGHEST_PORT - 2}; "
                    "management and metrics take the two ports after it"
                )
            if port == 0:
                ports = free_ports("127.0.0.1", 5)
            else:
                fixed = [port, port + 1, port + 2]
                free = [
                    free for free in free_ports("127.0.0.1", 6) if free not in [*fixed, port + 3]
                ]
                ports = [*fixed, *free[:2]]
            endpoints = [
                replace(endpoint, port=chosen)
                for endpoint, chosen in zip(endpoints, ports, strict=True)
            ]
        by_port: dict[int, str] = {}
        for endpoint in endpoints:
            # If two APIs share a port, TorchServe confuses tokens and calls of versions.
            other = by_port.setdefault(endpoint.port, endpoint.setting)
            if other != endpoint.setting:
                raise UsageError(
                    f"{self.source}: {other} and {endpoint.setting} are both on port "
                    f"{endpoint.port}; expected different ports"
                )
        return endpoints

    def keeper_endpoint(self, endpoints: list[Endpoint], port: int | None = None) -> Endpoint:
        """Return the address of the keeper's API: by default, the port after that of metrics.

        Args:
            endpoints: of TorchServe.
            port: as for `endpoints`; if given, it replaces the setting.

        Raises:
            UsageError: the address is invalid, or one of TorchServe's.
        """
        if port is None and KEEPER_SETTING in self.values:
            endpoint = self._http(KEEPER_SETTING)
        else:
            taken = {each.port for each in endpoints}
            wanted = endpoints[2].port + 1
            if port == 0 or wanted > _HIGHEST_PORT:
                wanted = next(each for each in free_ports("127.0.0.1", 6) if each not in taken)
            endpoint = Endpoint(KEEPER_SETTING, "127.0.0.1", wanted)
        for other in endpoints:
            if other.port == endpoint.port:
                raise UsageError(
                    f"{self.source}: {other.setting} and {KEEPER_SETTING} are both on port "
                    f"{endpoint.port}; expected different ports"
                )
        return endpoint

    def effective(self, endpoints: list[Endpoint], model_store: Path) -> str:
        """Return the text of TorchServe's own configuration file."""
        http, grpc = endpoints[:3], endpoints[3:]
        return write_properties(
            {
                **{k: v for k, v in self.values.items() if k != KEEPER_SETTING},
                **{each.setting: f"http://{each.host}:{each.port}" for each in http},
                **{each.setting: str(each.port) for each in grpc},
                "model_store": str(model_store),
                "metrics_config": str(self.metrics_config),
                # `vestal serve` registers models through it. It requires a token.
                "enable_model_api": "true",
                # TorchServe would start one worker per core; `vestal serve` registers each model.
                "load_models": "",
                # These values already include the environment's.
                "enable_envvars_config": "false",
            }
        )

    def _http(self, setting: str) -> Endpoint:
        address = _ADDRESS.fullmatch(self.values[setting])
        if address is None or not 1 <= int(address["port"]) <= _HIGHEST_PORT:
            raise self.file.invalid(
                setting,
                f"http://HOST:PORT with a port from 1 to {_HIGHEST_PORT} "
                "(vestal serve has no TLS: put a proxy in front)",
            )
        return Endpoint(setting, address["host"], int(address["port"]))

    def _grpc(self, setting: str) -> Endpoint:
        host = self.values[setting.replace("_port", "_address")]
        return Endpoint(setting, host, self.integer(setting))


def default_file() -> Path:
    """Return Vestal's config.properties: in a wheel, in this folder; else in the repository."""
    installed = HERE / "config.properties"
    return installed if installed.exists() else HERE.parents[1] / "config.properties"
