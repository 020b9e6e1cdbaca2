"""Callers that go on while a server is restarted: plain httpx, and Vestal's client."""

from __future__ import annotations

import asyncio
import json
import time

import httpx

from benchmarks.open_load import HUNG_SECONDS, OpenLoad, Row
from vestal import AsyncClient, ClientError
from vestal.project import ReadyFile


class PlainLoad(OpenLoad):
    """Plain httpx without retries; it reads the key file for every request."""

    async def _send(
        self, client: httpx.AsyncClient, url: str, began: float, scheduled: float
    ) -> None:
        phase = self.phase
        try:
            keys = json.loads(self._project.key_file.read_text())
            token = {"Authorization": f"Bearer {keys['inference']['key']}"}
            response = await client.post(url, content=self._body, headers=token)
            status, answer = response.status_code, response.text
            version = response.headers.get("x-model-version", "")
        except (httpx.HTTPError, OSError, ValueError) as error:
            status, answer, version = 0, type(error).__name__, ""
        took = time.monotonic() - began - scheduled
        self.rows.append(Row(scheduled, took, status, version, answer, phase))


class ClientLoad(OpenLoad):
    """Vestal's client, with a deadline of HUNG_SECONDS for each call."""

    async def _run(self) -> None:
        ready = ReadyFile.read(self._project.ready_file)
        began, scheduled = time.monotonic(), 0.0
        async with (
            AsyncClient(
                ready.inference,
                management=ready.management,
                key_file=self._project.key_file,
                timeout=HUNG_SECONDS,
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            while not self._stop.is_set():
                scheduled += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, began + scheduled - time.monotonic()))
                tasks.create_task(self._call(client, began, scheduled))

    async def _call(self, client: AsyncClient, began: float, scheduled: float) -> None:
        phase = self.phase
        try:
            prediction = await client.predict(self._model, self._body)
            status, answer = 200, json.dumps(prediction.value)
            version = prediction.version or ""
        except ClientError as error:
            status, answer, version = error.status or 0, f"{type(error).__name__}: {error}", ""
        took = time.monotonic() - began - scheduled
        self.rows.append(Row(scheduled, took, status, version, answer, phase))
