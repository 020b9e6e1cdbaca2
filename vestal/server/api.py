"""TorchServe's HTTP API, as far as `vestal serve` needs it.

Each call is one request, without the retries of `vestal.Client`: a start must notice at once that
TorchServe has ended, and registers several models at the same time.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import requests

from vestal.configuration.ports import Endpoint
from vestal.errors import VestalError
from vestal.server.spec import ModelSpec

_PING_SECONDS = 5.0
_REQUEST_COUNTS = re.compile(r"^ts_inference_requests_total\{.*\} ([\d.eE+]+)$", re.MULTILINE)


class Api:
    """Calls a TorchServe on this machine. `key_file`: None if tokens are off."""

    def __init__(self, endpoints: list[Endpoint], key_file: Path | None) -> None:
        addresses = (endpoint.url for endpoint in endpoints[:3])
        self._inference, self._management, self._metrics = addresses
        self._key_file = key_file
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy: the server is on this machine

    def close(self) -> None:
        self._session.close()

    def is_up(self) -> bool:
        """Whether TorchServe responds and accepts the key."""
        with contextlib.suppress(requests.RequestException, FileNotFoundError, ValueError):
            return self._management_call("GET", "/models", _PING_SECONDS).ok
        return False

    def register(self, spec: ModelSpec, timeout: float) -> None:
        """Register an archive of the model store; its workers start in the background.

        Raises:
            VestalError: TorchServe refused the archive; the message has its reason.
        """
        response = self._management_call(
            "POST",
            "/models",
            timeout,
            url=spec.archive.name,
            model_name=spec.name,
            # The default is no worker. minWorkers in the archive's configuration has priority.
            initial_workers="1",
            # Otherwise, a thread that inference needs waits for the workers.
            synchronous="false",
        )
        if not response.ok:
            raise VestalError(
                f"model {spec} was not registered from {spec.archive}: {error_of(response)}"
            )

    def describe(self, name: str, version: str, timeout: float) -> dict[str, Any] | None:
        """Return TorchServe's description of a version; None if it is not registered."""
        response = self._management_call("GET", f"/models/{name}/{version}", timeout)
        if response.status_code == 404:
            return None
        response.raise_for_status()
        description: dict[str, Any] = response.json()[0]
        return description

    def list_versions(self, timeout: float) -> list[dict[str, Any]]:
        """Return `{"name", "version", "default"}` of every registered version."""
        versions: list[dict[str, Any]] = []
        page: dict[str, Any] = {"nextPageToken": "0"}
        while token := page.get("nextPageToken"):
            response = self._management_call(
                "GET", "/models", timeout, limit="100", next_page_token=token
            )
            response.raise_for_status()
            page = response.json()
            for model in page["models"]:
                versions += self._versions_of(model["modelName"], timeout)
        return versions

    def _versions_of(self, name: str, timeout: float) -> list[dict[str, Any]]:
        all_versions = self._management_call("GET", f"/models/{name}/all", timeout)
        default = self._management_call("GET", f"/models/{name}", timeout)
        if 404 in (all_versions.status_code, default.status_code):  # unregistered meanwhile
            return []
        all_versions.raise_for_status()
        default.raise_for_status()
        default_version = default.json()[0]["modelVersion"]
        versions = [each["modelVersion"] for each in all_versions.json()]
        return [{"name": name, "version": v, "default": v == default_version} for v in versions]

    def set_default(self, spec: ModelSpec, timeout: float) -> None:
        path = f"/models/{spec.name}/{spec.version}/set-default"
        self._management_call("PUT", path, timeout).raise_for_status()

    def unregister(self, spec: ModelSpec, timeout: float) -> None:
        """Remove a version at once; does nothing if it is not registered."""
        response = self._management_call("DELETE", f"/models/{spec.name}/{spec.version}", timeout)
        if response.status_code != 404:
            response.raise_for_status()

    def request_count(self, timeout: float) -> float:
        """Return the number of prediction requests since TorchServe started."""
        page = self._session.get(
            f"{self._metrics}/metrics", headers=self._authorization("management"), timeout=timeout
        )
        return sum(map(float, _REQUEST_COUNTS.findall(page.text)))

    def describe_in_worker(self, name: str, version: str, timeout: float) -> requests.Response:
        """Request the handler's own description, which a worker sends after its current batch."""
        path = f"/models/{name}/{version}"
        return self._management_call("GET", path, timeout, customized="true")

    def predict(
        self, spec: ModelSpec, body: bytes, content_type: str, timeout: float
    ) -> requests.Response:
        return self._session.post(
            f"{self._inference}/predictions/{spec.name}/{spec.version}",
            data=body,
            headers={**self._authorization("inference"), "Content-Type": content_type},
            timeout=timeout,
        )

    def _management_call(
        self, method: str, path: str, timeout: float, **parameters: str
    ) -> requests.Response:
        return self._session.request(
            method,
            self._management + path,
            params=parameters,
            headers=self._authorization("management"),
            timeout=timeout,
        )

    def _authorization(self, kind: str) -> dict[str, str]:
        if self._key_file is None:
            return {}
        keys = json.loads(self._key_file.read_text(encoding="utf-8"))
        return {"Authorization": f"Bearer {keys[kind]['key']}"}


def error_of(response: requests.Response) -> str:
    """Return TorchServe's error: `404 ModelNotFoundException: Model not found at: x.mar`."""
    try:
        error = response.json()
        return f"{response.status_code} {error['type']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.text.strip()[:200]}"


def is_queue_full(response: requests.Response) -> bool:
    """Whether TorchServe refused a request because the queue is full or there is no worker."""
    return response.status_code == 503 and "ServiceUnavailableException" in response.text
