"""TorchServe's `BaseHandler`, without the import of OpenVINO's backend for torch.compile.

Where openvino is installed, TorchServe imports that backend in every worker, which takes 6 seconds
and 200 MB. No engine here uses it.
"""

from __future__ import annotations

import sys

_UNUSED = "openvino.torch"

_blocked = _UNUSED not in sys.modules
if _blocked:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]  # its import raises ImportError
try:
    from ts.torch_handler.base_handler import BaseHandler
finally:
    if _blocked:
        del sys.modules[_UNUSED]

__all__ = ["BaseHandler"]
