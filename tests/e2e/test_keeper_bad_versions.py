"""Versions that must not replace a good one: the keeper rejects them, and the old one serves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from kept import Served, Stream, client_of, keeping
from serving import ECHO, START_SECONDS, archive, until

from vestal.fleet.initial import state_folder
from vestal.fleet.resolving import version_target
from vestal.fleet.state import StateStore
from vestal.project import Project


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Its state knows the memory of echo 8.0: a petabyte."""
    project = Project(tmp_path_factory.mktemp("kept"))
    huge = archive(project.model_store, "echo", version="8.0")
    StateStore(state_folder(project)).save_footprint(version_target(huge).sha256, 1 << 50)
    with keeping(project.root) as served:
        yield served


RAISES = f"raise ValueError('the weights are for another model')\n{ECHO}"
DIES = ECHO.replace("    version =", "    import os; os._exit(1)\n    version =")
SLOW = f"import time; time.sleep(600)\n{ECHO}"
GROWS = f"""
import resource
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20),) * 2)
held = [bytearray(16 << 20) for _ in range(64)]
{ECHO}"""
KILLED = f"import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n{ECHO}"
BAD = {
    "does not load": (RAISES, {}, r"did not load: ValueError: the weights are for another model"),
    "crashes": (DIES, {}, r"echo 9\.0 fails its sample input\.bin: .*Worker died"),
    "answers wrongly": (ECHO.replace("len(body)", "9"), {}, r"answer\.length is 9, expected 4"),
    "is never ready": (SLOW, {"ready_seconds": 3}, r"0 of 1 workers are READY after \d+ s"),
    "grows too large": (GROWS, {}, r"did not load: .*(out of memory|MemoryError)"),
    "is killed": (KILLED, {}, r"its worker ended without an exception \(killed, out of memory"),
    "is above its limit": (ECHO, {"memory_limit": 1 << 20}, r"more than its memory_limit of 1 MB"),
}
LONG = ("crashes", "is killed", "grows too large")
"""Each worker is given a second chance, or a gigabyte."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in BAD]
)
def test_a_version_that_fails_is_rejected_and_the_old_one_is_untouched(
    served: Served, name: str
) -> None:
    handler, policy, reason = BAD[name]
    before, pid = served.versions(), served.client.describe("echo").workers[0].pid
    (served.project.model_store / "echo-9.0.mar").unlink(missing_ok=True)
    served.pack("9.0", handler)
    with client_of(served.server, retries=0) as caller, Stream(caller) as stream:
        revision = served.swap("9.0", **policy)
    assert revision.outcome == "failed"
    assert revision.reason is not None
    assert re.search(reason, revision.reason), revision.reason
    assert "\n" not in revision.reason
    assert served.versions() == before
    assert served.client.describe("echo").workers[0].pid == pid
    assert stream.errors == []
    assert served.keeper.ready() == (True, [])


def test_a_version_that_needs_more_memory_than_is_free_is_not_started(served: Served) -> None:
    before = served.versions()
    with client_of(served.server, retries=0) as caller, Stream(caller) as stream:
        revision = served.swap("8.0")
    assert revision.outcome == "failed"
    assert revision.reason is not None
    expected = r"echo 8\.0: not enough memory: 1 worker needs 1125\.9 TB, and .* are free\. Stop"
    assert re.match(expected, revision.reason), revision.reason
    assert not served.started("register")
    assert served.versions() == before
    assert (stream.errors, served.keeper.ready()) == ([], (True, []))


TIMED = """
import time
from types import SimpleNamespace

from vestal_handlers.base import BatchHandler

class Handler(BatchHandler):
    def initialize(self, context):
        context.manifest["model"]["serializedFile"] = "echo_handler.py"
        super().initialize(context)

    def load_engine(self, artifact):
        return SimpleNamespace(describe=dict)

    def example_input(self):
        return None

    def decode(self, instance):
        return None

    def forward(self, samples):
        time.sleep(SECONDS)
        return samples

    def encode(self, output, instance):
        return {"length": 4, "version": self.version}
"""


@pytest.mark.slow
def test_a_version_that_is_three_times_slower_gives_way_to_the_old_one(served: Served) -> None:
    served.pack("10.0", TIMED.replace("SECONDS", "0.02"), torch=True)
    served.pack("11.0", TIMED.replace("SECONDS", "0.06"), torch=True)
    assert served.swap("10.0").outcome == "done"
    pid = served.client.describe("echo").workers[0].pid
    with client_of(served.server, retries=0) as caller, Stream(caller) as stream:
        until(lambda: len(stream.versions) > 400, START_SECONDS, "traffic of the old version")
        revision = served.swap("11.0", settle_seconds=30)
        assert revision.outcome == "failed"
        count = len(stream.versions)
        until(lambda: len(stream.versions) > count + 20, START_SECONDS, "the old version")
    assert revision.reason is not None
    worse = r"echo 11\.0 is worse than 10\.0, which is the default version again: its handler takes"
    assert re.match(rf"{worse} [23]\.\d times as long .*; allowed: 2 times$", revision.reason)
    assert stream.errors == []
    assert (stream.versions[0], stream.versions[-1]) == ("10.0", "10.0")
    assert set(stream.versions) == {"10.0", "11.0"}
    assert served.versions() == [("10.0", True)]
    assert served.client.describe("echo").workers[0].pid == pid
