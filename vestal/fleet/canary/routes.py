"""The paths of the keeper's API for canaries."""

from __future__ import annotations

import threading
from typing import Any

from fastapi import FastAPI

from vestal.errors import UsageError
from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus, Command, no_canary
from vestal.fleet.control import KeeperControl


def add_canaries(
    app: FastAPI, control: KeeperControl, one_change: threading.Lock, **options: Any
) -> None:
    """Add the paths.

    Args:
        one_change: held while what is desired changes.
        options: of all paths, such as `dependencies`.
    """

    @app.get("/v1/canaries", **options)
    def canaries() -> list[CanaryStatus]:
        """The canaries that run, and the last one of each other model."""
        return control.canaries()

    @app.get("/v1/canaries/{model}", **options)
    def canary(model: str) -> CanaryStatus:
        """The canary of a model that runs, or the last one."""
        for each in control.canaries():
            if each.model == model:
                return each
        raise UsageError(no_canary(model))

    @app.post("/v1/canaries", **options)
    def start(request: CanaryRequest) -> CanaryStatus:
        """Start a canary. The keeper works on it in the background."""
        with one_change:
            return control.start_canary(request)

    @app.post("/v1/canaries/{model}/{command}", **options)
    def change(model: str, command: Command) -> CanaryStatus:
        """Pause, resume or abort the canary of a model."""
        with one_change:
            return control.change_canary(model, command)
