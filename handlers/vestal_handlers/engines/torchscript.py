"""TorchScript: an artifact of `torch.jit.save`, which contains its architecture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.engines.inputs import ModelInput, ModelInputs
from vestal_handlers.engines.torch_module import ModuleEngine, check_precision
from vestal_handlers.errors import first_line


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> ModuleEngine:
    """Load a TorchScript file onto a device, in eval mode; see `engines.load`.

    Raises:
        ValueError: not TorchScript, a program that only runs on another device, or a precision
            that the device does not support.
    """
    check_precision("torchscript", precision, device)
    with warnings.catch_warnings():
        # torch 2.15 deprecates TorchScript; this engine still serves it.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        try:
            module = torch.jit.load(str(artifact), map_location=device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ValueError(
                f"{artifact.name} is not a TorchScript file (torch.jit.save): {first_line(error)} "
                "(a state_dict needs handler.engine: eager)"
            ) from error
    module.eval()
    _move_constants(module, device, artifact.name)
    dtype = _dtype_of(module)
    return ModuleEngine(
        "torchscript",
        module,
        device,
        precision,
        dtype=dtype,
        inputs=_inputs_of(module, artifact.name, dtype),
        output=output,
        all_outputs=all_outputs,
        artifact=artifact.name,
    )


def _inputs_of(module: Any, artifact: str, float_dtype: torch.dtype | None) -> ModelInputs:
    """The parameters of forward(), without `self`."""
    parameters = module.forward.schema.arguments[1:]
    inputs = [ModelInput(each.name, required=not each.has_default_value()) for each in parameters]
    return ModelInputs(artifact, inputs, float_dtype=float_dtype)


def _nodes(module: Any, kind: str) -> Iterator[Any]:
    """The nodes of a kind in the graphs of all methods of a module and its submodules."""
    for part in module.modules():
        for name in part._c._method_names():
            yield from part._c._get_method(name).graph.findAllNodes(kind)


def _move_constants(module: Any, device: torch.device, artifact: str) -> None:
    """Change the devices in the graph (`x.to("cuda:0")`), which map_location leaves unchanged.

    Raises:
        ValueError: the code calls .cuda(), but the device is not CUDA.
    """
    if device.type != "cuda" and any(_nodes(module, "aten::cuda")):
        raise ValueError(
            f"{artifact} moves tensors to CUDA (.cuda() in its code), but this worker runs on "
            f"{device.type}. Save it again with .to(x.device) instead of .cuda()"
        )
    for node in _nodes(module, "prim::Constant"):
        if node.output().type().kind() == "DeviceObjType" and node.hasAttribute("value"):
            if torch.device(node.s("value")).type != device.type:
                node.s_("value", str(device))
        elif node.output().type().kind() == "TensorType" and node.hasAttribute("value"):
            value = node.t("value")
            if value.device.type != device.type:
                node.t_("value", value.to(device))


def _dtype_of(module: Any) -> torch.dtype | None:
    """The dtype of the first weight, which inputs of floats must have; None without weights."""
    weights = chain(module.parameters(), module.buffers(), _tensors(module))
    return next((weight.dtype for weight in weights if weight.is_floating_point()), None)


def _tensors(module: Any) -> Iterator[Tensor]:
    """The weights of a frozen module, which are constants of its graph."""
    for node in _nodes(module, "prim::Constant"):
        if node.output().type().kind() == "TensorType" and node.hasAttribute("value"):
            value = node.t("value")
            if value.dim() > 1:
                yield value
