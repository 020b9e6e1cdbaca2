"""Run one TorchServe process: Java, start, draining, stop."""

from vestal.server.spec import ModelSpec

__all__ = ["ModelSpec"]
