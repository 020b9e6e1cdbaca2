"""The gateway under load: shares, and changes of what it serves."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from gateway_served import KEY, MAX_BODY, Gated, gated

from vestal import Client, Prediction
from vestal.fleet.desired import Canary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_the_share_of_a_canary_is_within_four_standard_deviations(
    served: Gated, percent: float
) -> None:
    count = 10_000
    try:
        served.canary(percent)
        with Client(served.url, token=KEY) as client:
            answers = client.predict_many("echo", [b"x"] * count, concurrency=16)
            versions = Counter(each["version"] for each in answers if isinstance(each, Prediction))
    finally:
        served.canary(0)
    share = percent / 100
    deviation = (count * share * (1 - share)) ** 0.5
    assert versions.total() == count
    assert abs(versions["1.1"] - count * share) < 4 * deviation


@contextlib.contextmanager
def load(served: Gated, paths: dict[str, set[str]]) -> Iterator[Counter[str]]:
    """Send requests without retries from two threads, and count what is wrong.

    Args:
        paths: versions that may respond, by path.
    """
    ended = threading.Event()
    seen: Counter[str] = Counter()

    def call() -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {KEY}"
            while not ended.is_set():
                for path, versions in paths.items():
                    response = session.post(f"{served.url}{path}", b"x", timeout=20)
                    if response.status_code != 200:
                        seen[response.text] += 1
                    elif response.json()["version"] not in versions:
                        seen[f"{path}: {response.json()['version']}"] += 1
                    else:
                        seen["right"] += 1

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_100_changes_of_the_configuration_under_load_lose_nothing(served: Gated) -> None:
    paths = {"/predictions/echo": {"1.0", "1.1"}, "/predictions/echo/1.2": {"1.2"}}
    try:
        with load(served, paths) as seen:
            for number in range(100):
                served.canary(number % 7 * 10)
    finally:
        served.canary(0)
    assert set(seen) == {"right"}
    assert seen["right"] > 100


def test_switches_and_removals_of_versions_under_load_lose_nothing(served: Gated) -> None:
    before = served.keeper.desired().models["echo"]
    versions = dict(before.versions)
    without = {version: each for version, each in versions.items() if version != "1.1"}
    settings: dict[str, Any] = {"canary": None, "shadow": None}
    canary = Canary(version="1.1", weight=50)
    try:
        served.change({**settings, "swap": before.swap.model_copy(update={"settle_seconds": 0})})
        with load(served, {"/predictions/echo": set(versions)}) as seen:
            for _ in range(2):
                served.change({"canary": canary})
                served.change({"canary": None, "default": "1.2"})
                served.change({"canary": canary})
                served.change({"canary": None, "versions": without})  # it had half of the requests
                served.change({"default": "1.0"})
                served.change({"versions": versions})
    finally:
        served.change(
            {name: getattr(before, name) for name in ("default", "versions", "canary", "shadow")}
        )
    assert set(seen) == {"right"}
    assert seen["right"] > 100


def test_giant_forms_do_not_reach_torchserve(served: Gated) -> None:
    """Directly, two of them take TorchServe to 2 GB, and other callers wait for seconds."""
    size = 6_553_500  # TorchServe's default limit
    part = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n'
    bodies = {
        "application/x-www-form-urlencoded": b"a&" * (size // 2),
        "multipart/form-data; boundary=x": part * (size // len(part)) + b"--x--\r\n",
    }

    def send(kind: str) -> int:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
        url = f"{served.url}/predictions/echo"
        return requests.post(url, bodies[kind], headers=headers, timeout=30).status_code

    served.change(max_body=size)
    try:
        before = served.torchserve.memory_info().rss, served.envoy.memory_info().rss
        with load(served, {"/predictions/echo": {"1.0"}}) as seen, ThreadPoolExecutor(4) as callers:
            statuses = Counter(callers.map(send, [*bodies] * 20))
        after = served.torchserve.memory_info().rss, served.envoy.memory_info().rss
    finally:
        served.change(max_body=MAX_BODY)
    assert statuses == {413: 40}
    assert set(seen) == {"right"}
    assert after[0] < before[0] + 100e6
    assert after[1] < before[1] + 400e6
