"""`vestal serve` is killed during a swap; the next start converges to what is desired."""

from __future__ import annotations

import signal

import pytest
from serving import START_SECONDS, Serving, archive, serving, until

from vestal import Client
from vestal.fleet.desired import Desired, ModelTarget, SwapPolicy
from vestal.fleet.keeper_client import KeeperClient
from vestal.fleet.resolving import version_target
from vestal.fleet.status import Source

VERSIONS = ("1.0", "2.0")
MOMENTS = ("loading echo 2.0", "echo 2.0 is ready", "echo 2.0 is the default", "echo 1.0 is idle")


def desired(server: Serving) -> Desired:
    file = server.project.model_store / "echo-2.0.mar"
    target = ModelTarget(
        default="2.0",
        versions={"2.0": version_target(file)},
        swap=SwapPolicy(settle_seconds=1, ready_seconds=START_SECONDS),
    )
    return Desired(models={"echo": target})


def client_of(server: Serving) -> Client:
    ready = server.ready()
    return Client(ready.inference, management=ready.management, key_file=ready.key_file)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_next_start_finishes_a_swap(tmp_path, moment):
    with serving(tmp_path / "project") as server:
        for version in VERSIONS:
            sample = {"content_type": "x/y", "answer": {"length": 4, "version": version}}
            archive(server.project.model_store, "echo", version=version, sample=sample)
        server.start("--port", "0", "echo-1.0.mar")
        server.ready()
        KeeperClient(server.project).apply(desired(server), Source(command="test", user="pytest"))
        until(lambda: moment in server.err, START_SECONDS, moment)
        server.signal(signal.SIGKILL)
        server.exit_code()
        server.assert_nothing_left()

        server.start("--port", "0")
        server.ready()
        assert "restoring revision 2 of the desired state" in server.err
        with client_of(server) as client:

            def only_the_new_version() -> bool:
                return [(i.version, i.default) for i in client.models()] == [("2.0", True)]

            until(only_the_new_version, START_SECONDS, "version 2.0")
            assert client.predict("echo", b"four")["version"] == "2.0"
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
