"""Lets torchvision be imported without torch.compile's machinery: half the time of a load.

torchvision 0.29 imports `torch._dynamo` (with it sympy, inductor, triton) for two marks that only
matter under torch.compile: `torch.compiler.disable` on one function of tv_tensors, and a question
in roi_align. While it is imported a stand-in answers; the real one is imported when it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MARKING = ("torchvision", "torchvision.tv_tensors")  # the modules that do so when imported
DYNAMO = "torch._dynamo"


@contextmanager
def quick_imports() -> Iterator[None]:
    """In here; where torch._dynamo is imported already, nothing is other than without."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MARKING or DYNAMO in sys.modules:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _stand_in():
                    execute(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _stand_in() -> Iterator[None]:
    dynamo, utils = ModuleType(DYNAMO), ModuleType(f"{DYNAMO}.utils")
    mine = {dynamo.__name__: dynamo, utils.__name__: utils}
    vars(dynamo).update(__path__=[], utils=utils, disable=_unmarked)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules.update(mine)
    try:
        yield
    finally:
        for name, module in mine.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _unmarked(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    return function


def _is_compile_supported(device: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device))
