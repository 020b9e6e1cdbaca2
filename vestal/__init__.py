"""Vestal takes PyTorch models to production on TorchServe and keeps them there.

`import vestal` imports only the errors; the client's names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.client import AsyncClient as AsyncClient
    from vestal.client import Client as Client
    from vestal.client import ClientError as ClientError
    from vestal.client import Conflict as Conflict
    from vestal.client import ConnectionFailed as ConnectionFailed
    from vestal.client import DeadlineExceeded as DeadlineExceeded
    from vestal.client import InvalidAddress as InvalidAddress
    from vestal.client import InvalidInput as InvalidInput
    from vestal.client import ModelDescription as ModelDescription
    from vestal.client import ModelInfo as ModelInfo
    from vestal.client import NoAddress as NoAddress
    from vestal.client import NotFound as NotFound
    from vestal.client import NotReady as NotReady
    from vestal.client import Overloaded as Overloaded
    from vestal.client import Prediction as Prediction
    from vestal.client import RequestRefused as RequestRefused
    from vestal.client import ServerFailed as ServerFailed
    from vestal.client import ServerMetrics as ServerMetrics
    from vestal.client import Timeout as Timeout
    from vestal.client import TokenError as TokenError
    from vestal.client import TokenExpired as TokenExpired
    from vestal.client import TooLarge as TooLarge
    from vestal.client import UnknownMetric as UnknownMetric
    from vestal.client import Worker as Worker
    from vestal.client import WorkerDied as WorkerDied

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidAddress",
    "InvalidInput",
    "ModelDescription",
    "ModelInfo",
    "NoAddress",
    "NotFound",
    "NotReady",
    "Overloaded",
    "Prediction",
    "RequestRefused",
    "ServerFailed",
    "ServerMetrics",
    "Timeout",
    "TokenError",
    "TokenExpired",
    "TooLarge",
    "UnknownMetric",
    "UsageError",
    "VestalError",
    "Worker",
    "WorkerDied",
]


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        from importlib.metadata import version  # takes longer than `import vestal`

        value = version("vestal")
    elif name in __all__:
        from vestal import client

        value = getattr(client, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
