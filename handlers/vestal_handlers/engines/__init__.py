"""Engines, which compute the forward pass of a model; each is one small module.

`load(artifact, device, precision)` returns an `Engine`, which is called with a batch and describes
itself. An engine is found by its name or by the suffix of the artifact:

    *.pth, *.safetensors -> eager         *.pt   -> torchscript
    *.pt2                -> exported      *.onnx -> onnx
    *.xml (with *.bin)   -> openvino
    by name only: compiled, for *.pth and *.safetensors
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
    ".xml": "openvino",
}
BY_NAME = frozenset({*BY_SUFFIX.values(), "compiled"})


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

    The name of a custom engine is that of a module in the artifact's folder, `<name>.py`, which
    defines `load(artifact, device, precision)`.

    Args:
        channels_last: the memory layout of image models. This and the following arguments, if set,
            are passed to the engine's `load`, which must have such a parameter.
        output: the name or index of the output that is served (None: the only one).
        all_outputs: serve all outputs of the model.

    Raises:
        FileNotFoundError: the artifact is missing.
        ModuleNotFoundError: the engine needs a package that is not installed.
        ValueError: an unknown engine or suffix, an argument that the engine does not support, or a
            file that it cannot load.
    """
    if not artifact.is_file():
        raise FileNotFoundError(f"no {artifact.name} in {artifact.parent}")
    name = name or BY_SUFFIX.get(artifact.suffix)
    if name in BY_NAME:
        module = importlib.import_module(f"vestal_handlers.engines.{name}")
    elif name and name.isidentifier() and artifact.with_name(f"{name}.py").is_file():
        module = load_module(artifact.parent, name)
    else:
        missing = f"engine {name!r}" if name else f"engine for *{artifact.suffix}"
        raise ValueError(
            f"no {missing} ({artifact.name}): the engines are "
            + ", ".join(f"{engine} (*{suffix})" for suffix, engine in BY_SUFFIX.items())
            + ", compiled (*.pth, *.safetensors)"
        )
    arguments = {
        "channels_last": (channels_last, "remove handler.channels_last from model-config.yaml"),
        "output": (output, "remove handler.output from model-config.yaml"),
        "all_outputs": (all_outputs, "this task needs it"),
    }
    # `is`: the output 0 equals False.
    passed = {
        key: value
        for key, (value, _) in arguments.items()
        if value is not None and value is not False
    }
    for key in passed.keys() - inspect.signature(module.load).parameters.keys():
        raise ValueError(
            f"{artifact.name}: the load() of the {name} engine has no parameter {key}; "
            f"{arguments[key][1]}"
        )
    engine: Engine = module.load(artifact, device, precision, **passed)
    return engine
