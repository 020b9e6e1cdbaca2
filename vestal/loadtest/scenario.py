"""Locust scenario: users that send inputs to one model.

`vestal.loadtest.run` starts it in a process of its own, because gevent patches the standard
library, and passes the settings in the environment variable VESTAL_LOAD.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

from locust import FastHttpUser, events, task
from locust.env import Environment

from vestal.children import end_with_parent

end_with_parent()

SETTINGS: dict[str, Any] = json.loads(os.environ["VESTAL_LOAD"])
BODIES = [Path(file).read_bytes() for file in SETTINGS["files"]]
NEXT = itertools.cycle(BODIES)


class LoadUser(FastHttpUser):
    """Send the next input as soon as the response to the last one arrives (a closed loop)."""

    host = SETTINGS["address"]
    connection_timeout = network_timeout = SETTINGS["deadline"]

    @task
    def predict(self) -> None:
        token = os.environ.get("VESTAL_LOAD_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        path = f"/predictions/{SETTINGS['model']}"
        with self.client.post(
            path,
            data=next(NEXT),  # type: ignore[arg-type]  # bytes are accepted; the annotation omits them
            headers=headers,
            name=path,
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(self._reason(response))

    @staticmethod
    def _reason(response: Any) -> str:
        """The error without its request id, so that equal failures are counted together."""
        try:
            body = response.json()
            return f"{response.status_code} {body['type']}: {body['message']}"
        except (ValueError, TypeError, KeyError):
            return f"{response.status_code} {response.error or 'no reason'}"


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_totals(environment: Environment, **_: Any) -> None:
    """Write the fields of `LoadResult` after every user has stopped."""
    total = environment.stats.total
    times = {f"p{n}": total.get_response_time_percentile(n / 100) or 0.0 for n in (50, 95, 99)}
    totals = {
        "requests": total.num_requests,
        "failures": {str(e.error): e.occurrences for e in environment.stats.errors.values()},
        "requests_per_second": total.total_rps,
        **times,
    }
    Path(SETTINGS["totals"]).write_text(json.dumps(totals), "utf-8")
