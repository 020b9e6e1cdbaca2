"""A real server whose keeper is in this process, with `echo` 1.0, and a stream of requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving import ECHO, START_SECONDS, archive, until

from vestal import Client
from vestal.fleet.desired import Desired, ModelTarget, SwapPolicy
from vestal.fleet.resolving import version_target
from vestal.fleet.server import Server
from vestal.fleet.status import Revision, Source
from vestal.project import Project

TEST = Source(command="test", user="pytest")


class Served:
    """A server with `echo` 1.0, and changes of what is desired."""

    def __init__(self, server: Server, project: Project, client: Client) -> None:
        self.server, self.project, self.client = server, project, client
        self.keeper = server.keeper

    def pack(
        self,
        version: str,
        handler: str = ECHO,
        answer: str | None = None,
        *,
        torch: bool = False,
    ) -> None:
        answer = answer or version
        sample = {"content_type": "x/y", "answer": {"length": 4, "version": answer}}
        archive(self.project.model_store, "echo", handler, version, sample, torch=torch)

    def models(
        self, version: str, memory_limit: int | None = None, **policy: Any
    ) -> dict[str, ModelTarget]:
        """What is desired, with this version of `echo` alone."""
        policy = {"ready_seconds": START_SECONDS, "settle_seconds": 2, **policy}
        file = self.project.model_store / f"echo-{version}.mar"
        target = ModelTarget(
            default=version,
            versions={version: version_target(file, memory_limit=memory_limit)},
            swap=SwapPolicy(**policy),
        )
        return self.keeper.desired().models | {"echo": target}

    def swap(self, version: str, **options: Any) -> Revision:
        """Desire this version alone, and return the revision with its outcome."""
        return self.apply(self.models(version, **options))

    def apply(self, models: dict[str, ModelTarget]) -> Revision:
        return self.outcome(self.keeper.apply(Desired(models=models), TEST).number)

    def outcome(self, number: int) -> Revision:
        """Wait for the outcome of a revision."""
        return until(lambda: self._finished(number), START_SECONDS, "an outcome")

    def started(self, step: str) -> bool:
        """Whether a step of the newest revision has begun."""
        newest = self.keeper.revisions()[0].number
        return any(
            (each.revision, each.kind, each.step) == (newest, "started", step)
            for each in self.keeper.events(0, 0)
        )

    def _finished(self, number: int) -> Revision | None:
        found = next(each for each in self.keeper.revisions() if each.number == number)
        return found if found.outcome else None

    def versions(self) -> list[tuple[str, bool]]:
        return [(i.version, i.default) for i in self.client.models() if i.name == "echo"]


class Stream(threading.Thread):
    """Sends requests one after the other, and collects the versions that respond."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client, self._ended = client, threading.Event()
        self.versions: list[str] = []
        self.errors: list[Exception] = []

    def run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                self.versions.append(self._client.predict("echo", b"x")["version"])
            except Exception as error:
                self.errors.append(error)

    def __enter__(self) -> Stream:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def client_of(server: Server, **options: Any) -> Client:
    ready = server.ready
    return Client(ready.inference, management=ready.management, key_file=ready.key_file, **options)


@contextmanager
def keeping(root: Path) -> Iterator[Served]:
    """Serve `echo` 1.0 from a project, which may have other archives and a state."""
    project = Project(root)
    sample = {"content_type": "x/y", "answer": {"length": 4, "version": "1.0"}}
    archive(project.model_store, "echo", sample=sample)
    with Server(project, ["echo-1.0.mar"], port=0) as server, client_of(server) as client:
        yield Served(server, project, client)
