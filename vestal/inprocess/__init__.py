"""Run an archive's handler in this process or a child process, without a server.

message -> frontend -> handler -> the response that TorchServe would send
"""

from vestal.inprocess.loaded_archive import LoadedArchive
from vestal.inprocess.messages import Answer, Input

__all__ = ["Answer", "Input", "LoadedArchive"]
