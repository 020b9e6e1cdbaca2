"""OpenVINO: an .xml file, with its weights in the .bin file of the same name; only on CPUs.

int8 is a property of the file (`vestal pack --precision int8` makes one). bf16 is how an fp32 file
is computed, on a CPU with bf16 instructions.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.engines.batches import BatchLimits
from vestal_handlers.engines.inputs import ModelInput, ModelInputs
from vestal_handlers.engines.outputs import choose_output
from vestal_handlers.engines.tensors import Batch, Outputs, map_tensors
from vestal_handlers.engines.torch_module import as_fp32

INPUT_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "f64": torch.float64,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "boolean": torch.bool,
}
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}  # int8: of the layers that are not quantized
NAMES = {"f32": "fp32", "i8": "int8", "u8": "int8"}  # u8: int8 weights, unsigned activations


class OpenVinoEngine:
    """A compiled model of OpenVINO; it has no gradients."""

    module = None

    def __init__(
        self,
        compiled: Any,
        precision: str,
        runtime: str,
        artifact: Path,
        output: str | int | None = None,
        all_outputs: bool = False,
    ) -> None:
        self._compiled, self._precision, self._runtime = compiled, precision, runtime
        self._request = compiled.create_infer_request()
        self._layers = layers(compiled)
        names = [_name(each, index) for index, each in enumerate(compiled.outputs)]
        self._all_outputs = all_outputs
        self._outputs = names if all_outputs else [choose_output(names, output, artifact.name)]
        self._indices = [names.index(name) for name in self._outputs]
        self._inputs = _inputs_of(compiled, artifact)
        limits = (_batch_limits(each.get_partial_shape()) for each in compiled.inputs)
        self.batches = BatchLimits.shared(limits, artifact).warn(artifact)

    def __call__(self, batch: Batch) -> Outputs:
        if isinstance(batch, Tensor):
            named = {self._inputs.inputs[0].name: self._inputs.cast_single(batch.detach())}
        else:
            named = self._inputs.bind({name: each.detach() for name, each in batch.items()})
        outputs = self.batches.run(self._run, named)
        return map_tensors(as_fp32, outputs)  # type: ignore[no-any-return]

    def describe(self) -> dict[str, Any]:
        (first, *others) = self._inputs.inputs
        named = {"outputs": self._outputs} if self._all_outputs else {}
        return {
            "name": "openvino",
            "precision": self._precision,
            "device": "cpu",
            "threads": self._compiled.get_property("INFERENCE_NUM_THREADS"),
            "runtime": self._runtime,
            "layers": self._layers,
            "built_for": {
                "batch": self.batches.describe(),
                **(self._inputs.describe() if others else {"input": list(first.shape or ())}),
                **named,
            },
        }

    def _run(self, batch: Batch) -> Outputs:
        arrays = [tensor.contiguous().numpy() for tensor in dict(batch).values()]
        # The inputs outlive the call; the outputs are copied, as the next call overwrites them.
        results = self._request.infer(arrays, share_inputs=True)
        tensors = [torch.from_numpy(results[index]) for index in self._indices]
        if not self._all_outputs:
            return tensors[0]
        return dict(zip(self._outputs, tensors, strict=True))


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> OpenVinoEngine:
    """Compile a model with the worker's share of threads (`torch.get_num_threads`).

    See `engines.load` for the arguments.

    Raises:
        ModuleNotFoundError: openvino is not installed.
        ValueError: not a model that OpenVINO can run, an input that is not a tensor, several
            outputs and none chosen, a precision that the file or this CPU does not have, or a GPU.
    """
    if precision not in HINTS:
        raise ValueError(
            f"the openvino engine does not support handler.precision: {precision}; use one of "
            f"{', '.join(HINTS)}"
        )
    if device.type != "cpu":
        raise ValueError(
            f"the openvino engine runs on the CPU, but this worker has {device}; serve the model "
            "with number_of_gpu=0 in config.properties, or with another engine"
        )
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{artifact.name} needs the package openvino, which is not installed "
            "(pip install openvino)",
            name="openvino",
        ) from error
    version = openvino.__version__.split("-")[0]
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError(
            f"this CPU ({core.get_property('CPU', 'FULL_DEVICE_NAME')}) has no bf16 instructions "
            "(AVX512_BF16 or AMX_BF16), which handler.precision: bf16 needs; use fp32 or int8"
        )
    try:
        model = core.read_model(artifact)
        quantized = is_quantized(model)
        if precision == ("bf16" if quantized else "int8"):
            raise ValueError(
                f"{artifact.name} is {'' if quantized else 'not '}quantized to int8, so it cannot "
                f"run with handler.precision: {precision}; pack it with --precision {precision}"
            )
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": "1",
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                # Otherwise each worker pins its threads to the same first cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
    except RuntimeError as error:
        raise ValueError(
            f"{artifact.name} is not a model that OpenVINO {version} can run: {_reason(error)}"
        ) from error
    precision = "int8" if quantized else precision
    runtime = f"openvino {version}"
    return OpenVinoEngine(compiled, precision, runtime, artifact, output, all_outputs)


def _reason(error: RuntimeError) -> str:
    """The message without the places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines()]
    places = ("Exception from", "Check '", "WARNING", "E0000")
    return next((line for line in lines if line and not line.startswith(places)), lines[0])


def is_quantized(model: Any) -> bool:
    """Whether activations or weights of an OpenVINO model are quantized."""
    return any(
        operation.get_type_name() == "FakeQuantize"
        or (
            operation.get_type_name() == "Constant"
            and operation.get_element_type().get_type_name() in ("i8", "u8")
            and len(operation.get_output_shape(0)) > 1
        )
        for operation in model.get_ops()
    )


def layers(compiled: Any) -> dict[str, int]:
    """The number of layers with weights, by the precision in which they really run."""
    counts: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        kind = info["layerType"].astype(str) if "layerType" in info else ""
        if kind in ("Convolution", "FullyConnected", "MatMul", "GroupConvolution"):
            found = info["runtimePrecision"].astype(str)
            counts[NAMES.get(found, found)] += 1
    return dict(counts)


def _name(port: Any, index: int) -> str:
    names = port.get_names()
    return min(names) if names else str(index)


def _batch_limits(shape: Any) -> BatchLimits:
    if shape.rank.is_dynamic or not len(shape):
        return BatchLimits()
    rows = shape[0]
    most = rows.get_max_length()  # -1: no limit
    return BatchLimits(max(1, rows.get_min_length()), most if most > 0 else None)


def _inputs_of(compiled: Any, artifact: Path) -> ModelInputs:
    inputs = compiled.inputs
    kinds = [each.get_element_type().get_type_name() for each in inputs]
    if not inputs or not set(kinds) <= INPUT_DTYPES.keys():
        named = ", ".join(f"{_name(each, n)}: {kinds[n]}" for n, each in enumerate(inputs))
        raise ValueError(
            f"{artifact.name} has {len(inputs)} inputs ({named}), expected tensors of "
            f"{', '.join(INPUT_DTYPES)}"
        )
    return ModelInputs(
        artifact.name,
        [
            ModelInput(_name(each, index), _sides(each.get_partial_shape()), INPUT_DTYPES[kind])
            for index, (each, kind) in enumerate(zip(inputs, kinds, strict=True))
        ],
    )


def _sides(shape: Any) -> tuple[int | None, ...] | None:
    if shape.rank.is_dynamic:
        return None
    return tuple(None if each.is_dynamic else each.get_length() for each in list(shape)[1:])
