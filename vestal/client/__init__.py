"""Client library: call models on a TorchServe, and manage them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vestal.client.client import Client
from vestal.client.deadline import DEFAULT, Timeout
from vestal.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidAddress,
    InvalidInput,
    NoAddress,
    NotFound,
    NotReady,
    Overloaded,
    RequestRefused,
    ServerFailed,
    TokenError,
    TokenExpired,
    TooLarge,
    UnknownMetric,
    WorkerDied,
)

if TYPE_CHECKING:
    from vestal.client.async_client import AsyncClient as AsyncClient
    from vestal.client.descriptions import ModelDescription as ModelDescription
    from vestal.client.descriptions import ModelInfo as ModelInfo
    from vestal.client.descriptions import Worker as Worker
    from vestal.client.metrics import MetricSample as MetricSample
    from vestal.client.metrics import ServerMetrics as ServerMetrics
    from vestal.client.prediction import Prediction as Prediction

__all__ = [
    "DEFAULT",
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidAddress",
    "InvalidInput",
    "MetricSample",
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
    "Worker",
    "WorkerDied",
]

_LATER = {
    "AsyncClient": "async_client",
    "ServerMetrics": "metrics",
    "ModelDescription": "descriptions",
    "ModelInfo": "descriptions",
    "Prediction": "prediction",
    "MetricSample": "metrics",
    "Worker": "descriptions",
}
"""Modules imported on first use; `dataclasses` alone would add 8 ms to `import vestal`."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
