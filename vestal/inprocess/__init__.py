"""Run an archive's handler in this process or a child process, without a server.

request -> frontend -> handler -> response
"""

from vestal.inprocess.loaded_archive import LoadedArchive
from vestal.inprocess.messages import Input, Response

__all__ = ["Input", "LoadedArchive", "Response"]
