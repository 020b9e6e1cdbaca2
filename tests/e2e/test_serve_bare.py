"""The repository's config.properties with a plain TorchServe, without Vestal."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import requests
from serving import END_SECONDS, START_SECONDS, archive, serving, until

from vestal.configuration.ports import free_ports

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def test_a_plain_torchserve_serves_the_store(tmp_path):
    with serving(tmp_path / "project") as server:
        root = server.project.root
        archive(server.project.model_store, "echo")
        package = root / "vestal" / "configuration"
        package.mkdir(parents=True)
        for name in ("metrics.yaml", "log4j2.xml"):
            shutil.copy(REPOSITORY / "vestal" / "configuration" / name, package)
        text = (REPOSITORY / "config.properties").read_text()
        ports = free_ports("127.0.0.1", 5)
        for old, new in zip(("8080", "8081", "8082", "7070", "7071"), ports, strict=True):
            text = text.replace(old, str(new))
        (root / "config.properties").write_text(text)

        torchserve = str(Path(sys.executable).with_name("torchserve"))
        server.run(torchserve, "--start", "--foreground", "--ts-config", "config.properties")
        java = server.java()

        def answer():
            try:
                keys = json.loads((root / "key_file.json").read_text())
                return requests.post(
                    f"http://127.0.0.1:{ports[0]}/predictions/echo",
                    data=b"abc",
                    headers={"Authorization": f"Bearer {keys['inference']['key']}"},
                    timeout=5,
                ).json()["length"]
            except (OSError, ValueError, KeyError, requests.RequestException):
                return None

        try:
            assert until(answer, START_SECONDS, "a prediction") == 3
            assert len(server.processes("model_service_worker")) == 1
        finally:
            java.send_signal(signal.SIGTERM)
            server.exit_code(END_SECONDS)
