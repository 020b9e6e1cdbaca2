"""`vestal serve` starts while callers send requests."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from benchmarks.client_load import Load
from benchmarks.client_server import torchserve

pytestmark = pytest.mark.slow


def test_a_server_starts_while_callers_fill_the_queue_of_a_model() -> None:
    with torchserve() as server, ExitStack() as callers:
        model = server.pack("steady", queue=1)
        server.start([model])
        for _ in range(10):  # each with its own budget of retries
            client = callers.enter_context(server.client(hedge=False))
            load = Load(client, "steady", 2, b"0.2", timeout=lambda: 3)
            callers.enter_context(load)
        server.kill()
        server.start([model])  # its verification finds a full queue
