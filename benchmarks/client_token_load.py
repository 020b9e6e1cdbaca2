"""Client processes that call one model while its server's keys expire every minute."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import threading
import time
from typing import Any

from benchmarks.client_server import Torchserve

CALLER = """
import json, sys, time
from vestal import Client, ClientError

addresses, model = json.loads(sys.argv[1]), sys.argv[2]
calls, failed, attempts = 0, [], {}
print("calling", flush=True)
with Client(**addresses) as client:
    while not getattr(sys.stdin, "closed", False):
        try:
            answer = client.predict(model, b"0.01")
            attempts[answer.attempts] = attempts.get(answer.attempts, 0) + 1
        except ClientError as error:
            failed.append(f"{type(error).__name__}: {error}")
        calls += 1
        import select
        if select.select([sys.stdin], [], [], 0.1)[0]:
            break
print(json.dumps({"calls": calls, "failed": failed, "attempts": attempts}))
"""


class TokenLoad:
    """`result`, set at the end: calls, failures, renewals in total and per minute."""

    def __init__(self, server: Torchserve, model: str, processes: int) -> None:
        self._key_file = server.project.key_file
        self._command = [sys.executable, "-c", CALLER, json.dumps(server.addresses()), model]
        self._count = processes
        self._keys: list[str] = []
        self._stop = threading.Event()
        self.result: dict[str, Any] = {}

    def __enter__(self) -> TokenLoad:
        pipe = subprocess.PIPE
        self._started = time.monotonic()
        self._processes = [
            subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
            for _ in range(self._count)
        ]
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def finish(self) -> None:
        """End the processes and compute the result; a second call does nothing."""
        if self.result:
            return
        seconds = self.seconds
        results = []
        for process in self._processes:
            out, _ = process.communicate("stop\n", timeout=60)
            results.append(json.loads(out.splitlines()[-1]))
        self._stop.set()
        self._watcher.join()
        attempts: collections.Counter[str] = collections.Counter()
        for each in results:
            attempts.update(each["attempts"])
        failed = [text for each in results for text in each["failed"]]
        renewals = len(self._keys) - 1
        self.result = {
            "processes": self._count,
            "seconds": round(seconds, 1),
            "calls": sum(each["calls"] for each in results),
            "failed": len(failed),
            "failures_said": failed[:5],
            "attempts": dict(attempts),
            "renewals": renewals,
            "renewals_a_minute": round(60 * renewals / seconds, 2),
        }

    def _watch(self) -> None:
        """Return every inference key that the key file has held."""
        while not self._stop.wait(0.02):
            try:
                key = json.loads(self._key_file.read_text())["inference"]["key"]
            except (OSError, ValueError):
                continue  # being written
            if key not in self._keys:
                self._keys.append(key)
