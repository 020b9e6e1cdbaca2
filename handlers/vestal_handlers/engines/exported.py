"""Exported: an artifact of `torch.export.save` (.pt2), which contains its architecture.

torch would load pickled objects in a .pt2, which can run code; such files are refused. The graph is
still a program, like that of TorchScript: load only files that you trust.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_unflatten  # public functions need the original arguments

from vestal_handlers.engines.batches import BatchLimits
from vestal_handlers.engines.inputs import ModelInput, ModelInputs
from vestal_handlers.engines.torch_module import (
    Arguments,
    ModuleEngine,
    check_precision,
)
from vestal_handlers.errors import first_line

# torch unpickles members with these names (torch.export.pt2_archive: OPAQUE_OBJ, CUSTOM_OBJ).
PICKLED = ("/constants/opaque_obj", "/constants/custom_obj")
_DEVICE = re.compile(rb'"device": *{"type": *"(\w+)"')


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> ModuleEngine:
    """Load an exported program onto a device; see `engines.load`.

    Raises:
        ValueError: not a .pt2 of torch.export, a file with pickled objects or for a device that
            this machine does not have, or a precision that the device does not support.
    """
    check_precision("exported", precision, device)
    _check_content(artifact)
    try:
        with _tensors_only():
            program = torch.export.load(artifact)
    except Exception as error:  # torch raises many exceptions for other versions
        raise ValueError(
            f"{artifact.name} is not a .pt2 that torch {torch.__version__} can load "
            f"(torch.export.save): {first_line(error)}"
        ) from error
    if device.type != "cpu" or _devices(artifact) != {"cpu"}:
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    traced = _traced_inputs(program, artifact)
    limits = (_batch_limits(program, tensor.shape[0]) for tensor in traced.values())
    inputs = ModelInputs(
        artifact.name,
        [ModelInput(name, _sides(each), each.dtype) for name, each in traced.items()],
    )
    (first, *others) = inputs.inputs
    return ModuleEngine(
        "exported",
        program.module(),
        device,
        precision,
        batches=BatchLimits.shared(limits, artifact).warn(artifact),
        dtype=first.dtype if not others else None,
        inputs=inputs,
        arrange=lambda named: _arguments(program, named),
        output=output,
        all_outputs=all_outputs,
        artifact=artifact.name,
        input=None if others else list(first.shape or ()),
    )


def _check_content(artifact: Path) -> None:
    names: list[str] = []
    if zipfile.is_zipfile(artifact):
        with zipfile.ZipFile(artifact) as content:
            names = content.namelist()
    # Files of torch before 2.8 have no archive_format; they are pickles.
    if not any(name.endswith("/archive_format") for name in names):
        raise ValueError(
            f"{artifact.name} is not a .pt2 file (torch.export.save, torch 2.8 or later)"
        )
    pickled = [name for name in names if any(part in name for part in PICKLED)]
    if pickled:
        raise ValueError(
            f"{artifact.name} holds pickled objects ({pickled[0]}), which could run code: "
            "export a model that holds only tensors"
        )
    # Otherwise torch would fail to load the weights, and report a broken file.
    if not torch.cuda.is_available() and "cuda" in _devices(artifact):
        raise ValueError(
            f"{artifact.name} was exported on CUDA, which this machine does not have. Export it on "
            "the CPU (model and inputs on the CPU before torch.export.export); such a file also "
            "runs on a GPU"
        )


def _devices(artifact: Path) -> set[str]:
    """The device types of the weights, constants and values of a .pt2."""
    types: set[str] = set()
    with zipfile.ZipFile(artifact) as content:
        for name in content.namelist():
            if name.endswith(".json"):
                types.update(kind.decode() for kind in _DEVICE.findall(content.read(name)))
    return types


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Force `weights_only=True` for every torch.load in the block; torch.export may not set it."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _traced_inputs(program: ExportedProgram, artifact: Path) -> dict[str, Tensor]:
    """The inputs of the trace; a side is a number, or a symbol if it may vary."""
    names = program.graph_signature.user_inputs
    traced = {
        node.name: node.meta.get("val")
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    }
    inputs = {n: each for n, each in traced.items() if isinstance(each, Tensor) and each.ndim > 0}
    if not names or len(inputs) != len(names):
        raise ValueError(
            f"{artifact.name} takes {len(names)} inputs ({', '.join(map(str, names))}), expected "
            "tensors with a batch dimension only"
        )
    return inputs


def _sides(traced: Tensor) -> tuple[int | None, ...]:
    """The sides after the batch dimension; None for a side that may vary."""
    sides: Iterable[Any] = traced.shape[1:]  # a symbol is not an int
    return tuple(side if isinstance(side, int) else None for side in sides)


def _arguments(program: ExportedProgram, named: dict[str, Tensor]) -> Arguments:
    """Arrange named inputs as the arguments that the program was exported with."""
    values = [named[str(name)] for name in program.graph_signature.user_inputs]
    return tree_unflatten(values, program.call_spec.in_spec)  # type: ignore[no-any-return]


def _batch_limits(program: ExportedProgram, rows: Any) -> BatchLimits:
    if isinstance(rows, int):
        return BatchLimits(rows, rows)
    limits = program.range_constraints.get(rows.node.expr)
    least = int(limits.lower) if limits is not None else 1
    bounded = limits is not None and limits.upper.is_Integer  # infinity is no limit
    # torch.export always sets a lower bound of 2; the graph accepts one row as well.
    return BatchLimits(least if least > 2 else 1, int(limits.upper) if bounded else None)
