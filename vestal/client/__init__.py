"""The SDK: calls models on a TorchServe, and manages them."""

from vestal.client.answers import Answer
from vestal.client.async_client import AsyncClient
from vestal.client.client import Client
from vestal.client.deadline import DEFAULT, Timeout
from vestal.client.descriptions import ModelDescription, ModelInfo, Worker
from vestal.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
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
    WorkerDied,
)
from vestal.client.metrics import Metrics, Sample

__all__ = [
    "DEFAULT",
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidInput",
    "Metrics",
    "ModelDescription",
    "ModelInfo",
    "NoAddress",
    "NotFound",
    "NotReady",
    "Overloaded",
    "RequestRefused",
    "Sample",
    "ServerFailed",
    "Timeout",
    "TokenError",
    "TokenExpired",
    "TooLarge",
    "Worker",
    "WorkerDied",
]
