"""Run one TorchServe process: Java, start, loading of models, draining, stop."""

from vestal.server.server import Server
from vestal.server.spec import ModelSpec

__all__ = ["ModelSpec", "Server"]
