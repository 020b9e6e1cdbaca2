"""ONNX Runtime: an .onnx file with one input, of which one output is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.engines.batches import Batches
from vestal_handlers.engines.outputs import choose
from vestal_handlers.engines.torch_module import first_line

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUTS = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(uint8)": torch.uint8,
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
    ) -> None:
        inputs, outputs = session.get_inputs(), [item.name for item in session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in INPUTS:
            named = ", ".join(f"{item.name}: {item.type}" for item in inputs)
            raise ValueError(
                f"{artifact.name} has {len(inputs)} inputs ({named}), expected one tensor"
            )
        self._session, self._version, self._device = session, version, device
        self._input, self._output = inputs[0], choose(outputs, output, artifact.name)
        self._dtype = INPUTS[inputs[0].type]
        rows = inputs[0].shape[0] if inputs[0].shape else None
        # A dimension without a number is dynamic: a name, or None.
        fixed = Batches(rows, rows) if isinstance(rows, int) else Batches()
        self.batches = fixed.warn(artifact)

    def __call__(self, batch: Tensor) -> Tensor:
        output = self.batches.run(self._run, batch.detach().to("cpu", self._dtype)).to(batch.device)
        return output.float() if output.dtype == torch.float16 else output

    def describe(self) -> dict[str, Any]:
        return {
            "name": "onnx",
            "precision": "fp16" if self._dtype == torch.float16 else "fp32",
            "device": str(self._device),
            "threads": self._session.get_session_options().intra_op_num_threads,
            "runtime": f"onnxruntime {self._version}",
            "built_for": {
                "batch": self.batches.describe(),
                # A side without a number may vary.
                "input": [s if isinstance(s, int) else None for s in self._input.shape[1:]],
            },
        }

    def _run(self, batch: Tensor) -> Tensor:
        rows = batch.contiguous().numpy()
        (output,) = self._session.run([self._output], {self._input.name: rows})
        return torch.from_numpy(output)


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    output: str | int | None = None,
) -> OnnxEngine:
    """Opens an .onnx file with the worker's share of threads (`torch.get_num_threads`).

    Args:
        output: the name or index of the output that is served; None: the only one.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: not a model that ONNX Runtime can run, more than one input, several outputs
            and none chosen, a precision other than fp32, or a device that this onnxruntime does
            not know.
    """
    if precision != "fp32":
        raise ValueError(
            f"the onnx engine cannot compute in {precision!r}: the precision of {artifact.name} is "
            "the one that it was exported with"
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
            f"this onnxruntime cannot compute on {device.type}: it knows "
            f"{', '.join(onnxruntime.get_available_providers())}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: the rest is for those who build it
    # Idle threads would spin on the cores that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = {"device_id": device.index or 0} if device.type == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(
            str(artifact), options, providers=[(provider, settings)]
        )
    except Exception as error:  # its exceptions have no common base of their own
        raise ValueError(
            f"{artifact.name} is not a model that ONNX Runtime {onnxruntime.__version__} can run: "
            f"{first_line(error)}"
        ) from error
    return OnnxEngine(session, onnxruntime.__version__, device, artifact, output)
