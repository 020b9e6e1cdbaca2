"""The few calls of TorchServe's HTTP interface that `vestal serve` needs."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import requests

from vestal.configuration.ports import Endpoint
from vestal.errors import VestalError
from vestal.server.spec import ModelSpec

_STEP_SECONDS = 5.0
_ARRIVALS = re.compile(r"^ts_inference_requests_total\{.*\} ([\d.eE+]+)$", re.MULTILINE)


class Api:
    """Calls TorchServe at its own addresses with the keys from its key file (None: tokens off)."""

    def __init__(self, endpoints: list[Endpoint], key_file: Path | None) -> None:
        addresses = (endpoint.url for endpoint in endpoints[:3])
        self._inference, self._management, self._metrics = addresses
        self._key_file = key_file
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the web is none for this machine

    def close(self) -> None:
        self._session.close()

    def answers(self) -> bool:
        """Whether TorchServe listens and lets us in."""
        with contextlib.suppress(requests.RequestException, FileNotFoundError, ValueError):
            return self._management_call("GET", "/models", _STEP_SECONDS).ok
        return False

    def register(self, spec: ModelSpec, timeout: float) -> None:
        """Registers an archive of the store and lets its workers start.

        Raises VestalError with TorchServe's reason where it is refused.
        """
        answer = self._management_call(
            "POST",
            "/models",
            timeout,
            url=spec.archive.name,
            model_name=spec.name,
            # Without it there is no worker; minWorkers of the archive's model-config.yaml wins.
            initial_workers="1",
            # Else an event-loop thread that answers requests waits for the workers.
            synchronous="false",
        )
        if not answer.ok:
            raise VestalError(
                f"model {spec} was not registered from {spec.archive}: {reason(answer)}"
            )

    def describe(self, spec: ModelSpec, timeout: float) -> dict[str, Any]:
        """Raises VestalError where TorchServe does not know the version."""
        answer = self._management_call("GET", f"/models/{spec.name}/{spec.version}", timeout)
        if not answer.ok:
            raise VestalError(f"model {spec} is not there any more: {reason(answer)}")
        description: dict[str, Any] = answer.json()[0]
        return description

    def described(self, name: str, version: str, timeout: float) -> dict[str, Any] | None:
        """A version as it runs; None where it is not registered any more."""
        answer = self._management_call("GET", f"/models/{name}/{version}", timeout)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        description: dict[str, Any] = answer.json()[0]
        return description

    def served(self, timeout: float) -> list[dict[str, Any]]:
        """`{"name", "version", "default"}` of every registered version."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"nextPageToken": "0"}
        while token := page.get("nextPageToken"):
            answer = self._management_call(
                "GET", "/models", timeout, limit="100", next_page_token=token
            )
            answer.raise_for_status()
            page = answer.json()
            for model in page["models"]:
                found += self._versions(model["modelName"], timeout)
        return found

    def _versions(self, name: str, timeout: float) -> list[dict[str, Any]]:
        every = self._management_call("GET", f"/models/{name}/all", timeout)
        default = self._management_call("GET", f"/models/{name}", timeout)
        if 404 in (every.status_code, default.status_code):  # unregistered since it was listed
            return []
        every.raise_for_status()
        default.raise_for_status()
        chosen = default.json()[0]["modelVersion"]
        versions = [each["modelVersion"] for each in every.json()]
        return [{"name": name, "version": v, "default": v == chosen} for v in versions]

    def set_default(self, spec: ModelSpec, timeout: float) -> None:
        path = f"/models/{spec.name}/{spec.version}/set-default"
        self._management_call("PUT", path, timeout).raise_for_status()

    def unregister(self, spec: ModelSpec, timeout: float) -> None:
        """Removes a version at once; one that is not registered is fine."""
        answer = self._management_call("DELETE", f"/models/{spec.name}/{spec.version}", timeout)
        if answer.status_code != 404:
            answer.raise_for_status()

    def arrivals(self, timeout: float) -> float:
        """How many predictions TorchServe has been asked for since its start."""
        page = self._session.get(
            f"{self._metrics}/metrics", headers=self._authorization("management"), timeout=timeout
        )
        return sum(map(float, _ARRIVALS.findall(page.text)))

    def fence(self, name: str, version: str, timeout: float) -> requests.Response:
        """A describe that goes through a worker."""
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


def reason(answer: requests.Response) -> str:
    """TorchServe's own words: `404 ModelNotFoundException: Model not found at: x.mar`."""
    try:
        error = answer.json()
        return f"{answer.status_code} {error['type']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text.strip()[:200]}"


def queue_full(answer: requests.Response) -> bool:
    """Whether TorchServe refused a request because the version's queue is full.

    Its response for a version without workers is the same.
    """
    return answer.status_code == 503 and "ServiceUnavailableException" in answer.text


def left(deadline: float) -> float:
    """Seconds until a deadline (time.monotonic), never so few that a call cannot be made."""
    return max(deadline - time.monotonic(), 0.1)
