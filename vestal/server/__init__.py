"""One TorchServe process: Java, ports, configuration, start, readiness, end."""

from vestal.server.server import Server
from vestal.server.spec import ModelSpec

__all__ = ["ModelSpec", "Server"]
