"""Helpers for tests of callers and of models, without Java.

`FakeServer` responds like TorchServe, without a model. The pytest plugin `vestal.testing.plugin`
has the fixture `archive`, which runs an archive or a model without a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vestal.testing.fake_server import FakeFailure as FakeFailure
    from vestal.testing.fake_server import FakeRequest as FakeRequest
    from vestal.testing.fake_server import FakeServer as FakeServer

__all__ = ["FakeFailure", "FakeRequest", "FakeServer"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vestal.testing import fake_server

    value: object = getattr(fake_server, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
