"""Engines compute the forward pass of a model; each is one small module.

`load(artifact, device, precision)` returns an `Engine`, which is called with a batch and describes
itself. An engine is found by its name or by the suffix of the artifact:

    *.pth, *.safetensors -> eager         *.pt   -> torchscript
    *.pt2                -> exported      *.onnx -> onnx
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any, Protocol

import torch

from vestal_handlers.engines.tensors import Batch
from vestal_handlers.model_files import load_module

BY_SUFFIX = {
    ".pth": "eager",
    ".safetensors": "eager",
    ".pt": "torchscript",
    ".pt2": "exported",
    ".onnx": "onnx",
}


class Engine(Protocol):
    """A loaded model, ready to compute.

    Attributes:
        module: the model as a torch module, for gradients; None if the engine has none.
    """

    module: torch.nn.Module | None

    def __call__(self, batch: Batch) -> Any:
        """Compute one forward pass: inputs [N, ...] to outputs [N, ...], floats as fp32.

        The batch is one tensor, or a dict of tensors by the names of the model's inputs. The
        outputs are one tensor; with `all_outputs`, a tuple of tensors or a dict by name. The caller
        decides whether gradients are kept (`torch.inference_mode`).
        """

    def describe(self) -> dict[str, Any]:
        """`name`, `precision`, `device`, `threads`, `runtime`, and what it is `built_for`."""


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    name: str | None = None,
    *,
    channels_last: bool = False,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> Engine:
    """Load an artifact with the engine of that name (None: by the suffix of the artifact).

    Another name is that of a module in the artifact's folder (`<name>.py`) that defines
    `load(artifact, device, precision)`.

    Args:
        channels_last: passed on to the engine's `load`, which must have such a parameter.
        output: the name or index of the output that is served (None: the only one); passed on in
            the same way.
        all_outputs: serve all outputs of the model; passed on in the same way.

    Raises:
        FileNotFoundError: the artifact is missing.
        ModuleNotFoundError: the engine needs a package that is not installed.
        ValueError: an unknown engine or suffix, a precision or memory layout that the engine does
            not support, or a file that it cannot load.
    """
    if not artifact.is_file():
        raise FileNotFoundError(f"no {artifact.name} in {artifact.parent}")
    name = name or BY_SUFFIX.get(artifact.suffix)
    if name in BY_SUFFIX.values():
        module = importlib.import_module(f"vestal_handlers.engines.{name}")
    elif name and name.isidentifier() and artifact.with_name(f"{name}.py").is_file():
        module = load_module(artifact.parent, name)
    else:
        wanted = f"engine {name!r}" if name else f"engine for *{artifact.suffix}"
        raise ValueError(
            f"no {wanted} ({artifact.name}): the engines are "
            + ", ".join(f"{engine} (*{suffix})" for suffix, engine in BY_SUFFIX.items())
        )
    known = inspect.signature(module.load).parameters
    further: dict[str, Any] = {}
    if channels_last:
        further["channels_last"] = True
        if "channels_last" not in known:
            raise ValueError(
                f"handler.channels_last: true ({artifact.name}): the {name} engine has no such "
                "memory layout. Remove the option, or serve a state_dict with the eager engine"
            )
    if output is not None:
        further["output"] = output
        if "output" not in known:
            raise ValueError(
                f"handler.output: {output} ({artifact.name}): the load() of the {name} engine has "
                "no parameter output. Remove the option"
            )
    if all_outputs:
        further["all_outputs"] = True
        if "all_outputs" not in known:
            raise ValueError(
                f"the task takes all outputs of {artifact.name}, but the load() of the {name} "
                "engine has no parameter all_outputs; add it"
            )
    engine: Engine = module.load(artifact, device, precision, **further)
    return engine
