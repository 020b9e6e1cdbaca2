"""Convert weights to the format that an engine loads: `python -m vestal.optimize.convert JOB`.

This runs in a child process, so that the same weights give the same bytes in every folder: the
model's modules have a fixed name, hashes have no seed, and TorchScript has compiled nothing before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vestal.children import end_with_parent
from vestal.errors import UsageError, VestalError
from vestal.inprocess.child import Channel
from vestal.inprocess.child_process import ChildDied, ChildProcess
from vestal.runs import Run
from vestal.weights.hugging_face_folder import CONFIG
from vestal_handlers.engines import BY_SUFFIX

# The format in which weights are saved for an engine.
BY_ENGINE = {
    "eager": "state_dict",
    "compiled": "state_dict",
    "torchscript": "torchscript",
    "exported": "exported",
    "onnx": "onnx",
    "openvino": "openvino",
}
QUANTIZED = ("onnx", "openvino")  # engines with artifacts in int8
PACKAGE = "vestal_model"


@dataclass(frozen=True)
class Job:
    """A conversion; the paths are absolute.

    Attributes:
        kind: the format to make, one of `BY_ENGINE`'s.
        folder: where the artifact is written.
        weights: a state_dict or safetensors in `run`, or an .onnx file.
        shape: of a batch of two inputs.
        staged: the folder of an archive of a Hugging Face folder, whose handler loads the model.
        calibration: recorded inputs (`recording.save`), to quantize the artifact; None: fp32.
        careful: keep those layers in fp32 whose quantization changes the outputs most.
    """

    kind: str
    run: str
    weights: str
    folder: str
    shape: list[int]
    staged: str | None = None
    calibration: str | None = None
    careful: bool = False


def is_quantized(artifact: Path) -> bool:
    """Whether an .onnx or .xml file is quantized already."""
    if artifact.suffix == ".onnx":
        from vestal_handlers.engines.onnx import is_quantized as check

        return check(artifact)
    if artifact.suffix == ".xml":
        return b'type="FakeQuantize"' in artifact.read_bytes()
    return False


def artifact_for(
    run: Run,
    engine: str,
    folder: Path,
    *,
    stage: Callable[[], Path] | None = None,
    calibration: Path | None = None,
    careful: bool = False,
) -> Path:
    """Return the file that an engine loads: one of the run, or its weights converted into `folder`.

    Args:
        stage: stages an archive of the run's own weights, and returns its folder; needed for a
            Hugging Face folder.
        calibration, careful: as in `Job`.

    Raises:
        UsageError: the engine is unknown.
        VestalError: the run has no weights that can be converted, or the conversion fails.
    """
    if run.task == "text_generator":
        raise UsageError(
            f"text generation runs in transformers; there is no engine {engine!r} for it"
        )
    if engine not in BY_ENGINE:
        raise UsageError(f"unknown engine {engine!r}: expected one of {', '.join(BY_ENGINE)}")
    by_engine = {BY_SUFFIX.get(Path(name).suffix): name for name in reversed(run.artifacts)}
    if "eager" in by_engine:
        by_engine["compiled"] = by_engine["eager"]
    if engine in by_engine and calibration is None and not (run.folder / CONFIG).is_file():
        return run.folder / by_engine[engine]
    weights = by_engine.get("eager")
    if engine in QUANTIZED:
        weights = by_engine.get("onnx", weights)
    if weights is None:
        raise VestalError(
            f"{run.folder} has {', '.join(run.artifacts)}; a file for the {engine} engine can only "
            "be made from a state_dict or safetensors"
            + (", or from .onnx" if engine in QUANTIZED else "")
        )
    staged = None
    if (run.folder / CONFIG).is_file():
        if engine not in QUANTIZED:
            raise UsageError(
                f"a Hugging Face folder runs in transformers, or with --engine "
                f"{' or '.join(QUANTIZED)}, not with {engine}"
            )
        staged = stage() if stage else None
    job = Job(
        kind=BY_ENGINE[engine],
        run=str(run.folder.resolve()),
        weights=weights,
        folder=str(folder.resolve()),
        shape=[2, *run.input_shape],
        staged=str(staged.resolve()) if staged else None,
        calibration=str(calibration.resolve()) if calibration else None,
        careful=careful,
    )
    fixed = {"PYTHONHASHSEED": "0"}
    with ChildProcess(run.model, __name__, json.dumps(asdict(job)), environment=fixed) as child:
        try:
            made = child.exchange(b"", "converting the weights", seconds=None)
        except ChildDied as error:
            raise VestalError(
                f"{weights} of {run.model} cannot be converted for the {engine} engine: "
                f"{error.output.rpartition('; ')[2]}"
            ) from None
    if "failed" in made:
        raise VestalError(f"{run.model} for the {engine} engine: {made['failed']}")
    return folder / str(made["file"])


def main(job: Job) -> None:
    """Convert the weights; report the name of the new file to the parent process."""
    channel = Channel()
    try:
        channel.write(file=convert(job))
    except VestalError as error:
        channel.write(failed=str(error))


def convert(job: Job) -> str:
    """Write the artifact, and return its name."""
    import torch

    from vestal.weights.saving import ARTIFACTS, save
    from vestal_handlers.engines import eager

    run, folder = Path(job.run), Path(job.folder)
    if job.kind not in QUANTIZED:
        module = eager.build(run, PACKAGE)
        eager.fill(module, eager.read(run / job.weights), job.weights)
        (made,) = save(module.eval(), [job.kind], folder, torch.zeros(job.shape))
        return made
    from vestal.optimize import quantize

    onnx = folder / ARTIFACTS["onnx"]
    if job.weights.endswith(".onnx"):
        source = run / job.weights
    elif job.staged:
        from vestal.optimize.pretrained import export

        source = export(Path(job.staged), onnx)
    else:
        module = eager.build(run, PACKAGE)
        eager.fill(module, eager.read(run / job.weights), job.weights)
        save(module.eval(), ["onnx"], folder, torch.zeros(job.shape))
        source = onnx
    samples = quantize.read_samples(Path(job.calibration)) if job.calibration else None
    if job.kind == "onnx":
        if samples is not None:
            quantize.onnx_int8(source, onnx, samples, careful=job.careful)
        return onnx.name
    made = quantize.openvino(source, folder, samples, careful=job.careful)
    onnx.unlink(missing_ok=True)
    return made


if __name__ == "__main__":
    end_with_parent()
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    main(Job(**arguments))
