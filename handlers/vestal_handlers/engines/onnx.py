"""ONNX Runtime: an .onnx file; one of its outputs is served, or all of them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.engines.batches import BatchLimits
from vestal_handlers.engines.inputs import ModelInput, ModelInputs
from vestal_handlers.engines.outputs import choose_output
from vestal_handlers.engines.tensors import Batch, Outputs, map_tensors
from vestal_handlers.engines.torch_module import as_fp32
from vestal_handlers.errors import first_line

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUT_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


class OnnxEngine:
    """A session of ONNX Runtime; it computes in the precision of its file and has no gradients."""

    module = None

    def __init__(
        self,
        session: Any,
        version: str,
        device: torch.device,
        artifact: Path,
        output: str | int | None = None,
        all_outputs: bool = False,
        quantized: bool = False,
    ) -> None:
        self._session, self._version, self._device = session, version, device
        self._quantized = quantized
        names = [each.name for each in session.get_outputs()]
        self._all_outputs = all_outputs
        self._outputs = names if all_outputs else [choose_output(names, output, artifact.name)]
        self._inputs = _inputs_of(session, artifact)
        # A dynamic dimension is a name or None.
        rows = [each.shape[0] if each.shape else None for each in session.get_inputs()]
        limits = [BatchLimits(r, r) if isinstance(r, int) else BatchLimits() for r in rows]
        self.batches = BatchLimits.shared(limits, artifact).warn(artifact)

    def __call__(self, batch: Batch) -> Outputs:
        if isinstance(batch, Tensor):
            device, cast = batch.device, self._inputs.cast_single(batch.detach().cpu())
            named = {self._inputs.inputs[0].name: cast}
        else:
            device = next(iter(batch.values())).device
            on_cpu = {name: tensor.detach().cpu() for name, tensor in batch.items()}
            named = self._inputs.bind(on_cpu)
        outputs = self.batches.run(self._run, named)
        return map_tensors(lambda tensor: as_fp32(tensor.to(device)), outputs)  # type: ignore[no-any-return]

    def describe(self) -> dict[str, Any]:
        (first, *others) = self._inputs.inputs
        dtypes = {each.dtype for each in self._inputs.inputs}
        named = {"outputs": self._outputs} if self._all_outputs else {}
        return {
            "name": "onnx",
            "precision": "int8"
            if self._quantized
            else "fp16"
            if torch.float16 in dtypes
            else "fp32",
            "device": str(self._device),
            "threads": self._session.get_session_options().intra_op_num_threads,
            "runtime": f"onnxruntime {self._version}",
            "built_for": {
                "batch": self.batches.describe(),
                **(self._inputs.describe() if others else {"input": list(first.shape or ())}),
                **named,
            },
        }

    def _run(self, batch: Batch) -> Outputs:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in dict(batch).items()}
        outputs = self._session.run(self._outputs, arrays)
        if not self._all_outputs:
            return torch.from_numpy(outputs[0])
        tensors = map(torch.from_numpy, outputs)
        return dict(zip(self._outputs, tensors, strict=True))


def _inputs_of(session: Any, artifact: Path) -> ModelInputs:
    inputs = session.get_inputs()
    if not inputs or any(each.type not in INPUT_DTYPES for each in inputs):
        named = ", ".join(f"{each.name}: {each.type}" for each in inputs)
        raise ValueError(
            f"{artifact.name} has {len(inputs)} inputs ({named}), expected tensors of "
            f"{', '.join(kind[7:-1] for kind in INPUT_DTYPES)}"
        )
    return ModelInputs(
        artifact.name,
        [
            ModelInput(
                each.name,
                tuple(side if isinstance(side, int) else None for side in each.shape[1:]),
                INPUT_DTYPES[each.type],
            )
            for each in inputs
        ],
    )


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> OnnxEngine:
    """Open an .onnx file with the worker's share of threads (`torch.get_num_threads`).

    See `engines.load` for the arguments.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: not a model that ONNX Runtime can run, an input that is not a tensor, several
            outputs and none chosen, a precision other than that of the file, or a device that
            this onnxruntime does not support.
    """
    quantized = is_quantized(artifact)
    if precision != "fp32" and not (precision == "int8" and quantized):
        raise ValueError(
            f"the onnx engine does not support handler.precision: {precision}; {artifact.name} "
            "keeps the precision that it was exported with"
        )
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{artifact.name} needs the package onnxruntime, which is not installed "
            "(pip install onnxruntime; onnxruntime-gpu for CUDA)",
            name="onnxruntime",
        ) from error
    provider = PROVIDERS.get(device.type)
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(
            f"this onnxruntime does not support {device.type}, only "
            f"{', '.join(onnxruntime.get_available_providers())}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # Idle threads that spin would slow down the decoding of the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = {"device_id": device.index or 0} if device.type == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(
            str(artifact), options, providers=[(provider, settings)]
        )
    except Exception as error:  # its exceptions have no common base class
        raise ValueError(
            f"{artifact.name} is not a model that ONNX Runtime {onnxruntime.__version__} can run: "
            f"{first_line(error)}"
        ) from error
    return OnnxEngine(
        session, onnxruntime.__version__, device, artifact, output, all_outputs, quantized
    )


def is_quantized(artifact: Path) -> bool:
    """Whether the file has operators that quantize; ONNX Runtime does not list operators."""
    if not artifact.stat().st_size:
        return False
    with artifact.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(b"QuantizeLinear") >= 0
