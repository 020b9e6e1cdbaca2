"""The models of a FakeServer, and its management API."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestal.errors import UsageError


class FakeError(Exception):
    """An error response of TorchServe: status, type and message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(status, kind, message)
        self.status, self.kind, self.message = status, kind, message


@dataclass
class FakeVersion:
    """One served version. Its workers are READY immediately."""

    model: str
    version: str
    archive: str
    answer: Any
    workers: int = 1
    first_worker: int = 9000
    described: int = 0

    def document(self) -> dict[str, Any]:
        """Return the version's description in TorchServe's format."""
        return {
            "modelName": self.model,
            "modelVersion": self.version,
            "modelUrl": self.archive,
            "runtime": "python",
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": 1,
            "maxBatchDelay": 100,
            "responseTimeout": 120,
            "loadedAtStartup": False,
            "workers": [
                {"id": str(self.first_worker + n), "status": "READY", "pid": self.first_worker + n}
                for n in range(self.workers)
            ],
            "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
        }


class FakeModels:
    """The versions of every model. The first one is the default until another is set."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, FakeVersion]] = {}
        self._defaults: dict[str, str] = {}
        self._store: dict[str, FakeVersion] = {}
        self._worker_ids = itertools.count(9000, 100)
        self.requests: Counter[tuple[str, str]] = Counter()

    def store(self, served: FakeVersion) -> None:
        """Put an archive into the model store."""
        self._store[served.archive] = served

    def serve(self, served: FakeVersion) -> None:
        served.first_worker = next(self._worker_ids)
        self._versions.setdefault(served.model, {})[served.version] = served
        self._defaults.setdefault(served.model, served.version)

    def find(self, model: str, version: str | None = None) -> FakeVersion:
        """Raises FakeError (404)."""
        if model not in self._versions:
            raise FakeError(404, "ModelNotFoundException", f"Model not found: {model}")
        found = self._versions[model].get(version or self._defaults[model])
        if found is None:
            raise FakeError(
                404,
                "ModelVersionNotFoundException",
                f"Model version: {version} does not exist for model: {model}",
            )
        return found

    def manage(self, method: str, parts: list[str], query: Mapping[str, str]) -> tuple[int, Any]:
        """Return status and body of a management call; raises FakeError."""
        match method, parts:
            case "GET", []:
                return 200, self._list(query)
            case "POST", []:
                return 202, self._register(query)
            case "GET", [model, "all"]:
                self.find(model)
                return 200, [served.document() for served in self._versions[model].values()]
            case "GET", [model, *version] if len(version) < 2:
                found = self.find(model, *version)
                document = found.document()
                if query.get("customized") == "true":
                    if not found.workers:
                        raise FakeError(*no_worker(found))
                    # The workers take turns, and each sends its id.
                    worker = f"worker-{found.described % found.workers}"
                    found.described += 1
                    document["customizedMetadata"] = {"worker": worker}
                return 200, [document]
            case "PUT", [model, version, "set-default"]:
                self.find(model, version)
                self._defaults[model] = version
                return 200, {"status": f'Default version successfully updated for model "{model}"'}
            case "PUT", [model, *version] if len(version) < 2:
                self.find(model, *version).workers = int(query.get("min_worker", "1"))
                return 202, {"status": "Processing worker updates..."}
            case "DELETE", [model, version]:
                return 200, self._unregister(model, version)
        raise FakeError(405, "MethodNotAllowedException", "Requested method is not allowed")

    def metrics_page(self) -> str:
        lines = ["# TYPE ts_inference_requests_total counter"]
        for (model, version), count in sorted(self.requests.items()):
            labels = f'model_name="{model}",model_version="{version}",hostname="fake"'
            lines.append(f"ts_inference_requests_total{{{labels},}} {count}.0")
        return "\n".join(lines) + "\n"

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        start, limit = int(query.get("next_page_token", "0")), int(query.get("limit", "100"))
        names = sorted(self._versions)
        page: dict[str, Any] = {
            "models": [
                {"modelName": name, "modelUrl": self.find(name).archive}
                for name in names[start : start + limit]
            ]
        }
        if start + limit < len(names):
            page["nextPageToken"] = str(start + limit)
        return page

    def _register(self, query: Mapping[str, str]) -> dict[str, str]:
        archive = query["url"]
        if archive not in self._store:
            raise FakeError(404, "ModelNotFoundException", f"Model not found at: {archive}")
        stored = self._store[archive]
        model = query.get("model_name", stored.model)
        if stored.version in self._versions.get(model, {}):
            raise FakeError(
                409,
                "ConflictStatusException",
                f"Model version {stored.version} is already registered for model {model}",
            )
        workers = int(query.get("initial_workers", "0"))
        self.serve(FakeVersion(model, stored.version, archive, stored.answer, workers))
        return {"status": "Processing worker updates..."}

    def _unregister(self, model: str, version: str) -> dict[str, str]:
        self.find(model, version)
        versions = self._versions[model]
        if len(versions) > 1 and self._defaults[model] == version:
            message = f"Cannot remove default version for model {model}"
            raise FakeError(403, "InvalidModelVersionException", message)
        del versions[version]
        if not versions:
            del self._versions[model], self._defaults[model]
        return {"status": f'Model "{model}" unregistered'}


def no_worker(served: FakeVersion) -> tuple[int, str, str]:
    """Return TorchServe's error for a version that was scaled to 0 workers."""
    message = (
        f'Model "{served.model}" Version {served.version} has no worker to serve inference '
        "request. Please use scale workers API to add workers."
    )
    return 503, "ServiceUnavailableException", message


def archive_name(model: str, version: str) -> str:
    if not model or "/" in model:
        raise UsageError(f"model is {model!r}: expected a name without a slash")
    return f"{model}-{version}.mar"
