"""Compiled: a state_dict, which torch.compile (Inductor) turns into native code for this machine.

Each worker compiles the model when it loads, so a worker takes longer to start. The native code is
not packed, because it belongs to one kind of CPU and is not reproducible. It is kept in the folder
of the extracted archive, which all workers of a version share.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from vestal_handlers.engines.eager import load_module
from vestal_handlers.engines.torch_module import ModuleEngine, check_precision

CACHE = ".compiled"
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_own_cache: str | None = None
"""What this module has set the variable to."""


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    channels_last: bool = False,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> ModuleEngine:
    """Load the weights as the eager engine does; each batch size may be compiled at its first use.

    The weights become constants of the code, rearranged for its kernels (`freezing`). A model that
    cannot be compiled as a whole fails at its first batch, which is the warm-up.

    Raises:
        FileNotFoundError: model.py is missing.
        ModuleNotFoundError: safetensors is not installed.
        ValueError: not a state_dict of this architecture, a precision that the device does not
            support, or a machine without a C++ compiler.
    """
    check_precision("compiled", precision, device)
    compiler = find_compiler(device)
    _set_cache(artifact.parent / CACHE)
    from torch._inductor import config

    config.compile_threads = 1  # Inductor's own processes for compilation would stay
    module = load_module(artifact, device, channels_last=channels_last)
    compiled = torch.compile(
        module,
        fullgraph=True,  # otherwise parts would run in eager, silently
        options={"freezing": True},
    )
    return ModuleEngine(
        "compiled",
        module,
        device,
        precision,
        computes=compiled,
        channels_last=channels_last,
        output=output,
        all_outputs=all_outputs,
        artifact=artifact.name,
        architecture=type(module).__name__,
        memory="channels_last" if channels_last else "contiguous",
        compiler=compiler,
        cpu=torch.backends.cpu.get_cpu_capability(),
    )


def find_compiler(device: torch.device) -> str | None:
    """Return the C++ compiler that Inductor uses for a CPU.

    Raises:
        ValueError: there is none, or Python's headers are missing.
    """
    if device.type != "cpu":
        return None  # Triton has its own
    command = os.environ.get("CXX") or "g++"
    if shutil.which(command) is None:
        raise ValueError(
            f"the compiled engine needs a C++ compiler, and there is no {command} in PATH: install "
            "g++ (apt-get install g++), name another one by the environment variable CXX, or use "
            "another engine"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise ValueError(
            f"the compiled engine needs Python's C headers, and there is no {header}: install them "
            "(apt-get install python3-dev), or use another engine"
        )
    return command


def _set_cache(folder: Path) -> None:
    """Let Inductor write into the folder, unless a user has set another one."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    global _own_cache
    # Inductor sets the variable to its default, which is shared by all programs of a user.
    if os.environ.get(_VARIABLE) in (None, _own_cache, default_cache_dir()):
        os.environ[_VARIABLE] = _own_cache = str(folder)
