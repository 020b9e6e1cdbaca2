"""A server with a gateway in front of three versions of a model, for tests."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import requests
from serving import START_SECONDS, archive, until

from vestal.configuration.ports import free_ports
from vestal.fleet.desired import Canary, Desired, ModelTarget, Shadow, SwapPolicy
from vestal.fleet.resolving import default_desired
from vestal.fleet.server import Server
from vestal.fleet.status import Source
from vestal.gateway.settings import Gateway, Sticky
from vestal.project import Project
from vestal.server.spec import read_spec

KEY = "key-of-the-shop-0123456789"
OTHER_KEY = "key-of-another-client-012345"
MAX_BODY = 1 << 20

HANDLER = """
import json

def handle(data, context):
    if data is None:  # TorchServe initializes a function with this call
        return None
    version = context.manifest["model"]["modelVersion"]
    responses = []
    for index, row in enumerate(data):
        body = bytes(row.get("body") or row.get("data") or b"")
        headers = {k.lower(): v for k, v in context.get_all_request_header(index).items()}
        response = {"length": len(body), "version": version, "headers": headers}
        responses.append(json.dumps(response).encode())
        with open("RECEIVED", "a") as file:
            file.write(json.dumps(response) + "\\n")
    return responses
"""


class Gated:
    """A running server with a gateway.

    `received`: file to which every version appends the requests that it got.
    """

    def __init__(self, server: Server, received: Path, keys: Path) -> None:
        self.server, self.keeper, self.received, self.keys = server, server.keeper, received, keys

    @property
    def url(self) -> str:
        status = self.keeper.gatekeeper.status
        assert status is not None
        return status.url

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.partition("://")[2].split(":")
        return host, int(port)

    @property
    def torchserve(self) -> psutil.Process:
        runner = self.server._runner
        assert runner is not None
        return psutil.Process(runner.pid)

    @property
    def envoy(self) -> psutil.Process:
        process = self.keeper.gatekeeper._process
        assert process is not None
        return psutil.Process(process.pid)

    def post(
        self,
        path: str = "/predictions/echo",
        body: bytes = b"x",
        headers: Mapping[str, str] | None = None,
        *,
        key: str | None = KEY,
    ) -> requests.Response:
        token = {} if key is None else {"Authorization": f"Bearer {key}"}
        return requests.post(
            f"{self.url}{path}", body, headers={**token, **(headers or {})}, timeout=20
        )

    def change(self, model: dict[str, Any] | None = None, **settings: Any) -> None:
        """Change fields of the model and of the gateway, and wait until they are in effect."""
        desired = self.keeper.desired()
        assert desired.gateway is not None
        echo = desired.models["echo"].model_copy(update=model or {})
        gateway = desired.gateway.model_copy(update=settings)
        after = Desired(models={**desired.models, "echo": echo}, gateway=gateway)
        if after == desired:
            return
        number = self.keeper.apply(after, Source(command="test", user="pytest")).number
        found = until(
            lambda: [r for r in self.keeper.revisions() if r.number == number and r.outcome],
            START_SECONDS,
            "an outcome",
        )
        assert found[0].outcome == "done", found[0].reason

    def canary(self, weight: float, sticky: Sticky | None = None) -> None:
        self.change({"canary": Canary(version="1.1", weight=weight, sticky=sticky)})

    def requests_received(self) -> list[dict[str, Any]]:
        """Return the requests that came through the gateway; the keeper's probes did not."""
        found = [json.loads(line) for line in self.received.read_text().splitlines()]
        return [each for each in found if "x-forwarded-proto" in each["headers"]]

    def raw(self, data: bytes, seconds: float = 10, close: bool = False) -> bytes:
        """Send bytes, and return everything that comes back until the gateway closes."""
        with socket.create_connection(self.address, timeout=seconds) as connection:
            connection.sendall(data)
            if close:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(OSError):
                while piece := connection.recv(65536):
                    answer += piece
            return answer


@contextlib.contextmanager
def gated(root: Path) -> Iterator[Gated]:
    """Serve `echo` 1.0 (the default version), 1.1 and 1.2."""
    project = Project(root)
    received = root / "received.jsonl"
    received.touch()
    handler = HANDLER.replace("RECEIVED", str(received))
    config = "batchSize: 8\nmaxBatchDelay: 1\n"
    files = [
        archive(project.model_store, "echo", handler, version, config=config)
        for version in ("1.0", "1.1", "1.2")
    ]
    keys = root / "keys.yaml"
    keys.touch(mode=0o600)
    keys.write_text(f"shop: {{key: {KEY}}}\nother: {{key: {OTHER_KEY}, models: [other]}}\n")
    [port] = free_ports("127.0.0.1", 1)
    gateway = Gateway(
        port=port, api_keys=str(keys), max_body=MAX_BODY, header_timeout=1, body_timeout=2
    )
    served = default_desired([read_spec(file) for file in files]).models["echo"]
    echo = ModelTarget(
        default="1.0",
        versions=served.versions,
        canary=Canary(version="1.1", weight=0),
        shadow=Shadow(version="1.2", sample=0),
        swap=SwapPolicy(ready_seconds=START_SECONDS),
    )
    serving_file = root / "serving.yaml"
    serving_file.write_text("models: {}\n")
    with Server(project, port=0, timeout=START_SECONDS) as server:
        source = Source(command="test", user="pytest")
        server.keeper.apply(Desired(models={"echo": echo}, gateway=gateway), source)
        assert server.keeper.wait_until_converged(START_SECONDS)
        yield Gated(server, received, keys)
