"""The folder of a keeper's state."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestal.fleet.desired import Desired, ModelTarget, Probe, VersionTarget
from vestal.fleet.status import Source

SOURCE = Source(command="vestal apply", user="alice", file="serving.yaml", sha256="0" * 64)


def desired(version: str, body: bytes = b"") -> Desired:
    probes = (Probe.of("in.bin", body, "image/png", {"label": "7"}),) if body else ()
    versions = {version: VersionTarget(archive=f"m-{version}.mar", sha256="a" * 64)}
    return Desired(models={"m": ModelTarget(default=version, versions=versions, probes=probes)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".vestal" / "state"
