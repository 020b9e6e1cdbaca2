"""The part of TorchServe's management API that the client's tests need, with its real responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from client_wire import HTTPServer, Received, error, http


@dataclass
class Version:
    """One registered version; `workers` holds (id, status, pid)."""

    number: str
    archive: str
    workers: list[tuple[str, str, int]] = field(default_factory=list)
    min_workers: int = 1
    pending: int = 0
    response_timeout: int = 120
    customized: Any = None
    on_describe: Callable[[Version], None] = lambda _: None
    on_fence: Callable[[Version], None] = lambda _: None

    def document(self, model: str) -> dict[str, Any]:
        return {
            "modelName": model,
            "modelVersion": self.number,
            "modelUrl": self.archive,
            "minWorkers": self.min_workers,
            "maxWorkers": self.min_workers,
            "batchSize": 1,
            "maxBatchDelay": 100,
            "responseTimeout": self.response_timeout,
            "workers": [
                {"id": each, "status": status, "pid": pid} for each, status, pid in self.workers
            ],
            "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": self.pending},
        }


def ready(number: str = "1.0", workers: int = 1, **options: Any) -> Version:
    return Version(
        number,
        f"m-{number}.mar",
        [(str(9000 + n), "READY", 100 + n) for n in range(workers)],
        min_workers=workers,
        **options,
    )


class FakeTorchServe(HTTPServer):
    """`models[name]` holds its versions; the first is the default unless `defaults` names one."""

    def __init__(self, **models: list[Version]) -> None:
        super().__init__(self._respond)
        self.models = models
        self.defaults: dict[str, str] = {}
        self.store: dict[str, tuple[str, Version]] = {}
        self.page = 2
        self.changes: list[str] = []

    def _respond(self, request: Received) -> bytes:
        parts = request.path.strip("/").split("/")[1:]
        if request.method != "GET":
            self.changes.append(f"{request.method} {request.target}")
        if not parts:
            return self._list(request) if request.method == "GET" else self._register(request)
        versions = self.models.get(parts[0])
        if not versions:
            return error(404, "ModelNotFoundException", f"Model not found: {parts[0]}")
        if parts[1:] == ["all"]:
            return http(200, [version.document(parts[0]) for version in versions])
        requested = parts[1] if len(parts) > 1 else self._default(parts[0])
        version = next((each for each in versions if each.number == requested), None)
        if version is None:
            return error(404, "ModelVersionNotFoundException", f"Model version: {requested}")
        if request.method == "DELETE":
            versions.remove(version)
        elif parts[2:] == ["set-default"]:
            self.defaults[parts[0]] = version.number
        elif request.method == "GET":
            return self._describe(request, parts[0], version)
        return http(200, {"status": "done"})

    def _default(self, model: str) -> str:
        return self.defaults.get(model, self.models[model][0].number)

    def _list(self, request: Received) -> bytes:
        start = int(request.query.get("next_page_token", 0))
        names = sorted(name for name, versions in self.models.items() if versions)
        page: dict[str, Any] = {
            "models": [{"modelName": name} for name in names[start : start + self.page]]
        }
        if start + self.page < len(names):
            page["nextPageToken"] = str(start + self.page)
        return http(200, page)

    def _register(self, request: Received) -> bytes:
        archive = request.query["url"]
        if archive not in self.store:
            return error(404, "ModelNotFoundException", f"Model not found at: {archive}")
        name, version = self.store[archive]
        self.models.setdefault(request.query.get("model_name", name), []).append(version)
        return http(202, {"status": "Processing worker updates..."})

    def _describe(self, request: Received, model: str, version: Version) -> bytes:
        if request.query.get("customized") != "true":
            version.on_describe(version)
            return http(200, [version.document(model)])
        version.on_fence(version)
        if isinstance(version.customized, bytes):
            return version.customized
        return http(200, [{**version.document(model), "customizedMetadata": version.customized}])
