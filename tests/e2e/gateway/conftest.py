"""One server with a gateway for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway_served import Gated, gated


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated(tmp_path_factory.mktemp("gateway")) as running:
        yield running
