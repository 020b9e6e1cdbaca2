"""Every block of the client's pages runs, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from client_torchserve import FakeTorchServe, Version, ready
from client_wire import Received, error, http

from vestal.project import Project, ReadyFile

DOCS = Path(__file__).parents[2] / "docs"


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


class Served(FakeTorchServe):
    """The fake server also returns predictions."""

    def _respond(self, request: Received) -> bytes:
        if request.path.startswith("/predictions/nobody"):
            return error(404, "ModelNotFoundException", "Model not found: nobody")
        if request.path.startswith("/predictions/"):
            return http(200, {"label": "7"}, x_model_version="1.0")
        if request.target == "/models/mnist?min_worker=2&max_worker=2&synchronous=false":
            self.models["mnist"][0].workers.append(("9001", "READY", 101))
        if request.path == "/metrics":
            page = b"# TYPE ts_inference_requests_total counter\n"
            return http(200, page, content_type="text/plain")
        return super()._respond(request)


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VESTAL_TOKEN", raising=False)
    for name in ("seven.png", "eight.png"):
        Path(name).write_bytes(b"png")
    Path("key_file.json").write_text('{"inference": {"key": "i"}, "management": {"key": "m"}}')
    project = Project.here()
    project.state.mkdir()
    blocks = blocks_of("guides/call.md")
    assert len(blocks) == 11
    (deadline,) = blocks_of("concepts/deadlines-and-retries.md")
    blocks.insert(5, deadline)  # while the client is open
    with Served(mnist=[ready("1.0", workers=1)]) as server:
        new = Version("2.0", "mnist-2.0.mar", [("9002", "READY", 102)])
        server.store["mnist-2.0.mar"] = ("mnist", new)
        here = ReadyFile(server.url, server.url, server.url, 1, None, [])
        project.ready_file.write_text(here.to_json())
        names: dict[str, object] = {}
        for block in blocks:
            exec(re.sub(r"http://127\.0\.0\.1:808\d", server.url, block), names)
        names["client"].close()  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert printed.startswith("7 1.0 ")
    assert "404 ModelNotFoundException client.models() lists the served versions" in printed
    assert server.changes[-2:] == [
        "DELETE /models/mnist/1.0",
        "PUT /models/mnist?min_worker=2&max_worker=2&synchronous=false",
    ]
