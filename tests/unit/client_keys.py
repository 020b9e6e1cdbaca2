"""A server with the tokens of TorchServe, for the client's tests."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client_wire import BAD_TOKEN, HTTPServer, Received, http


class KeyServer(HTTPServer):
    """A key file with two keys that expire, and an API that renews them, as TorchServe has."""

    def __init__(self, folder: Path, *, seconds: float = 60) -> None:
        super().__init__(self._respond)
        self.key_file = folder / "key_file.json"
        self.lifetime = 60.0
        self.renewals: list[str] = []
        self.writes = True
        self.renewal_response: bytes | None = None
        self.ends = {api: time.time() + seconds for api in ("inference", "management")}
        self.numbers = {"inference": 1, "management": 1}
        self.lock = threading.Lock()
        self.write()

    def key(self, api: str) -> str:
        return f"{api}-{self.numbers[api]}"

    def write(self, **more: object) -> None:
        def when(api: str) -> str:
            moment = datetime.fromtimestamp(self.ends[api], UTC)
            return moment.isoformat().replace("+00:00", "123Z")

        keys: dict[str, object] = {
            api: {"key": self.key(api), "expiration time": when(api)}
            for api in ("inference", "management")
        }
        self.key_file.write_text(json.dumps({**keys, "API": {"key": "api"}, **more}))

    def renew(self, api: str) -> None:
        self.numbers[api] += 1
        self.ends[api] = time.time() + self.lifetime
        if self.writes:
            self.write()

    def _respond(self, request: Received) -> bytes:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        with self.lock:
            if request.path == "/token":
                if token != "api":
                    return BAD_TOKEN
                self.renewals.append(request.query["type"])
                if self.renewal_response is not None:
                    return self.renewal_response
                self.renew(request.query["type"])
                return http(200, b"\n")
            api = "inference" if request.path.startswith("/predictions") else "management"
            if token != self.key(api) or time.time() > self.ends[api]:
                return BAD_TOKEN
            return http(200, {} if api == "inference" else {"models": []})

    def addresses(self) -> dict[str, Any]:
        """Arguments of a client."""
        return {"url": self.url, "management": self.url, "key_file": str(self.key_file)}
