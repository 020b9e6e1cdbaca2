"""Artifacts: a trained module saved in the formats that engines load.

What torch adds for its tracebacks, and with it the paths of this machine, is left out.
"""

from __future__ import annotations

import copy
import importlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestal.errors import VestalError
from vestal.files.storage import atomic_write

# By format: the file, and the further files that it needs in an archive.
ARTIFACTS = {
    "torchscript": "model.pt",
    "exported": "model.pt2",
    "state_dict": "model.pth",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "transformers": "model.safetensors",
}
LANGUAGE_MODEL = ("config.json", "generation_config.json", "tokenizer.json")


def save(module: nn.Module, formats: Sequence[str], folder: Path, example: Tensor) -> list[str]:
    """Saves a module, in eval mode on the CPU, in each format; gives the files' names.

    Args:
        example: a batch of two inputs [2, ...], for the formats that trace.
    """
    for name in formats:
        _SAVERS[name](module, folder / ARTIFACTS[name], example)
    return [ARTIFACTS[name] for name in formats]


def check(module: nn.Module, formats: Sequence[str], example: Tensor) -> None:
    """Saves a module for trial, before hours of training; the module stays as it is.

    Raises:
        VestalError: it cannot be saved in one of the formats.
        ModuleNotFoundError: a package that writes one is not installed.
    """
    trial = copy.deepcopy(module).eval()
    with tempfile.TemporaryDirectory(prefix="vestal-trial-") as scratch:
        for name in formats:
            try:
                save(trial, [name], Path(scratch), example)
            except ModuleNotFoundError:
                raise
            except Exception as error:  # of torch's exporters each has its own
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise VestalError(
                    f"{type(module).__name__} cannot be saved as {name} ({reason}): take another "
                    f"format into saves= of recipe.py ({', '.join(ARTIFACTS)}), or change model.py"
                ) from error


def _torchscript(module: nn.Module, file: Path, example: Tensor) -> None:
    with warnings.catch_warnings():
        # Deprecated since torch 2.15, and what this format is.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        scripted = torch.jit.script(module)

    def write(fresh: Path) -> None:
        # The same name: torch writes it into the file.
        whole = fresh.parent / "whole" / fresh.name
        whole.parent.mkdir()
        scripted.save(str(whole))  # type: ignore[no-untyped-call]
        reader, writer = (
            torch._C.PyTorchFileReader(str(whole)),
            torch._C.PyTorchFileWriter(str(fresh)),
        )
        for name in reader.get_all_records():
            if not name.endswith((".debug_pkl", "/serialization_id")):
                record = reader.get_record(name)
                writer.write_record(name, record, len(record))
        writer.write_end_of_file()

    _whole(file, write)


def _exported(module: nn.Module, file: Path, example: Tensor) -> None:
    program = torch.export.export(module, (example,), dynamic_shapes=_any_batch())
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
                node.meta.pop(name, None)
    _whole(file, lambda fresh: torch.export.save(program, fresh))


def _onnx(module: nn.Module, file: Path, example: Tensor) -> None:
    def write(fresh: Path) -> None:
        # One file: an archive's artifact has no second one for its weights.
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=_any_batch(),
            external_data=False,
            verbose=False,
        )
        assert program is not None
        _without_traces(program.model)
        program.save(str(fresh), external_data=False)

    for package in ("onnx", "onnxscript"):  # torch wraps what says that one is missing
        importlib.import_module(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        _whole(file, write)


def _without_traces(model: Any) -> None:
    """Of an `onnx_ir.Model`: what stands in the graphs of functions and of branches, too."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    nodes = [node for graph in graphs for node in graph.all_nodes()]
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in nodes for output in node.outputs]
    for place in (model, *graphs, *nodes, *values):
        place.metadata_props.clear()


def _state_dict(module: nn.Module, file: Path, example: Tensor) -> None:
    _whole(file, lambda fresh: torch.save(module.state_dict(), fresh))


def _safetensors(module: nn.Module, file: Path, example: Tensor) -> None:
    from safetensors.torch import save_model

    _whole(file, lambda fresh: save_model(module, str(fresh)))


def _transformers(module: Any, file: Path, example: Tensor) -> None:
    module.save_pretrained(file.parent)


_SAVERS: dict[str, Callable[[nn.Module, Path, Tensor], None]] = {
    "torchscript": _torchscript,
    "exported": _exported,
    "onnx": _onnx,
    "state_dict": _state_dict,
    "safetensors": _safetensors,
    "transformers": _transformers,
}


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _whole(file: Path, write: Callable[[Path], Any]) -> None:
    """The file appears whole or not at all, also when several make it at once."""
    with atomic_write(file) as fresh:
        write(fresh)
