"""Quantize a model in ONNX to int8 with NNCF, calibrated with recorded inputs.

Weights and activations of the layers with weights become int8 (static quantization). The result is
the same on every CPU: NNCF halves the range of the first layer's weights, because CPUs without VNNI
instructions add products in 16 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vestal.errors import VestalError
from vestal.optimize.recording import SINGLE

Arrays = Mapping[str, np.ndarray]

ACCEPTED = 0.01
"""The relative error of the outputs, on average over the samples, that `careful` aims at."""


def read_samples(file: Path) -> list[Arrays]:
    """Read what `recording.save` wrote: the arrays [1, ...] of each sample by input name."""
    samples: dict[int, dict[str, np.ndarray]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            samples.setdefault(int(number), {})[name] = arrays[key]
    return [samples[number] for number in sorted(samples)]


def openvino(source: Path, folder: Path, samples: Sequence[Arrays] | None, *, careful: bool) -> str:
    """Convert an .onnx file to model.xml and model.bin, in int8 if there are samples."""
    import openvino as ov

    # Reads all of the .onnx file now: it may be replaced.
    model = ov.convert_model(source, verbose=False)
    if samples is not None:
        named = _named(samples, [each.get_any_name() for each in model.inputs])
        model = _quantize(model, named, _run_openvino, careful=careful)
        _check_quantized(any(each.get_type_name() == "FakeQuantize" for each in model.get_ops()))
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return "model.xml"


def onnx_int8(source: Path, target: Path, samples: Sequence[Arrays], *, careful: bool) -> None:
    """Quantize an .onnx file: int8 layers are between QuantizeLinear and DequantizeLinear."""
    import onnx

    model = onnx.load(source)
    constants = {each.name for each in model.graph.initializer}
    names = [each.name for each in model.graph.input if each.name not in constants]
    quantized = _quantize(model, _named(samples, names), _run_onnx, careful=careful)
    _check_quantized(any(node.op_type == "QuantizeLinear" for node in quantized.graph.node))
    onnx.save(quantized, target)


def _check_quantized(found: bool) -> None:
    if not found:
        raise VestalError(
            "int8 loses too much accuracy in every layer of this model; pack it in fp32, or "
            "calibrate with other inputs"
        )


def _named(samples: Sequence[Arrays], names: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """The samples by the names of the file's inputs; a single input may have had none."""
    return [{(names[0] if key == SINGLE else key): v for key, v in s.items()} for s in samples]


def _quantize(
    model: Any,
    samples: Sequence[Arrays],
    run: Callable[[Any, Arrays], list[np.ndarray]],
    *,
    careful: bool,
) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    transformer = any(array.ndim == 2 and array.dtype.kind == "i" for array in samples[0].values())
    settings: dict[str, Any] = {
        "subset_size": len(samples),
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
    }
    data = nncf.Dataset(samples)
    if not careful:
        return nncf.quantize(model, data, **settings)
    expected = [run(model, sample) for sample in samples]

    def validate(candidate: Any, given: Iterable[Arrays]) -> tuple[float, list[float]]:
        """1 minus the relative error of each sample's outputs; at times of some samples only."""
        by_id = {id(sample): outputs for sample, outputs in zip(samples, expected, strict=True)}
        scores = [1 - _error(by_id[id(each)], run(candidate, each)) for each in given]
        return float(np.mean(scores)), scores

    return nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=data,
        validation_dataset=data,
        validation_fn=validate,
        max_drop=ACCEPTED,
        **settings,
    )


def _error(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    """The norm of the difference, relative to the norm of the expected outputs."""
    norm = sum(float(np.square(each, dtype=np.float64).sum()) for each in expected)
    off = sum(
        float(np.square(left - right, dtype=np.float64).sum())
        for left, right in zip(expected, actual, strict=True)
    )
    return float(np.sqrt(off / norm)) if norm else float(np.sqrt(off))


def _run_openvino(model: Any, sample: Arrays) -> list[np.ndarray]:
    import openvino as ov

    if isinstance(model, ov.Model):  # by default in bf16, on a CPU that has it
        model = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = model(dict(sample))
    return [outputs[index] for index in range(len(outputs))]


def _run_onnx(model: Any, sample: Arrays) -> list[np.ndarray]:
    import onnxruntime

    if not hasattr(model, "run"):
        model = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    return list(model.run(None, dict(sample)))
