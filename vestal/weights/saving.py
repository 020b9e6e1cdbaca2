"""Save a run: a module in the formats that engines load, its code, labels and a sample.

Paths of this machine, which torch writes for its tracebacks, are left out.
"""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestal.errors import VestalError
from vestal.files.storage import atomic_write
from vestal.model_folders import support_files
from vestal.recipes.request_body import body_of
from vestal.runs import LABELS, SAMPLE
from vestal.weights.alignment import align
from vestal.weights.hugging_face_copy import FILES

# Format -> file.
ARTIFACTS = {
    "torchscript": "model.pt",
    "exported": "model.pt2",
    "state_dict": "model.pth",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "transformers": "model.safetensors",
}


def save(module: nn.Module, formats: Sequence[str], folder: Path, example: Tensor) -> list[str]:
    """Save a module, in eval mode on the CPU, in each format, and return the names of the files.

    Args:
        example: a batch of two inputs [2, ...], for formats that trace the module.
    """
    for name in formats:
        _SAVERS[name](module, folder / ARTIFACTS[name], example)
    return [ARTIFACTS[name] for name in formats]


def check(module: nn.Module, formats: Sequence[str], example: Tensor) -> None:
    """Save a copy of a module to a temporary folder, to find errors before a long training.

    Raises:
        VestalError: the module cannot be saved in one of the formats.
        ModuleNotFoundError: a format requires a package that is not installed.
    """
    trial = copy.deepcopy(module).eval()
    with tempfile.TemporaryDirectory(prefix="vestal-trial-") as scratch:
        for name in formats:
            try:
                save(trial, [name], Path(scratch), example)
            except ModuleNotFoundError:
                raise
            except Exception as error:  # each exporter raises its own kinds
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise VestalError(
                    f"{type(module).__name__} cannot be saved as {name} ({reason}): "
                    f"choose another format in recipe.py ({', '.join(ARTIFACTS)}), or change "
                    "model.py"
                ) from error


def _torchscript(module: nn.Module, file: Path, example: Tensor) -> None:
    with warnings.catch_warnings():
        # torch 2.15 deprecates TorchScript.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        scripted = torch.jit.script(module)

    def write(fresh: Path) -> None:
        # torch writes the file name into the file, so it is the same for both.
        full = fresh.parent / "full" / fresh.name
        full.parent.mkdir()
        scripted.save(str(full))  # type: ignore[no-untyped-call]
        reader = torch._C.PyTorchFileReader(str(full))
        writer = torch._C.PyTorchFileWriter(str(fresh))
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
        # The artifact of an archive is one file, so the weights are in it.
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=_any_batch(),
            external_data=False,
            verbose=False,
        )
        assert program is not None
        without_traces(program.model)
        program.save(str(fresh), external_data=False)

    for package in ("onnx", "onnxscript"):  # torch hides the ModuleNotFoundError
        importlib.import_module(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in the exporter
        _whole(file, write)


def without_traces(model: Any) -> None:
    """Remove traces from all graphs of an `onnx_ir.Model`, those of functions and branches too."""
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

    def write(fresh: Path) -> None:
        save_model(module, str(fresh))
        align(fresh)

    _whole(file, write)


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
    """Write a file completely or not at all, even if several processes write it at once."""
    with atomic_write(file) as fresh:
        write(fresh)


@dataclass(frozen=True)
class RunFiles:
    """Names of the files in a run, and versions of the packages that wrote them (as in `Run`)."""

    artifacts: list[str]
    support: list[str]
    versions: dict[str, str]


def save_run(
    module: nn.Module,
    formats: Sequence[str],
    folder: Path,
    example: Tensor,
    *,
    model_folder: Path,
    task: str,
    labels: Sequence[str] | None,
    transforms: str,
    sample: Any,
) -> RunFiles:
    """Save a trained module, its code and labels, and a decoded input as `sample/input.*`."""
    artifacts = save(module, formats, folder, example)
    body = body_of(task, sample)
    (folder / SAMPLE).mkdir(exist_ok=True)
    (folder / SAMPLE / f"input{body.suffix}").write_bytes(body.content)
    return save_support(artifacts, model_folder, folder, labels, transforms)


def save_support(
    artifacts: list[str],
    model_folder: Path,
    folder: Path,
    labels: Sequence[str] | None,
    transforms: str = "transforms",
) -> RunFiles:
    """Copy the code of a model into a run, and write its labels."""
    files = support_files(model_folder, transforms)
    for target, source in files.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)
    support = list(files)
    if labels:
        names = {str(index): label for index, label in enumerate(labels)}
        text = json.dumps(names, indent=1, ensure_ascii=False) + "\n"
        (folder / LABELS).write_text(text, "utf-8")
        support.append(LABELS)
    support += [file for file in FILES if (folder / file).is_file()]
    return RunFiles(artifacts, support, {name: version(name) for name in ("torch", "torchvision")})
