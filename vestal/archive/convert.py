"""Convert weights to the format that an engine loads: `python -m vestal.archive.convert`.

This runs in a child process, so that the same weights give the same bytes in every folder: the
model's modules have a fixed name, hashes have no seed, and TorchScript has compiled nothing before.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vestal.children import end_with_parent
from vestal.errors import UsageError, VestalError
from vestal.inprocess.child import Channel
from vestal.inprocess.child_process import ChildDied, ChildProcess
from vestal.runs import Run
from vestal_handlers.engines import BY_SUFFIX

# The format in which weights are saved for an engine.
BY_ENGINE = {
    "eager": "state_dict",
    "torchscript": "torchscript",
    "exported": "exported",
    "onnx": "onnx",
}
PACKAGE = "vestal_model"


def artifact_for(run: Run, engine: str, folder: Path) -> Path:
    """Return the file that an engine loads: one of the run, or its weights converted into `folder`.

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
    for artifact in run.artifacts:
        if BY_SUFFIX.get(Path(artifact).suffix) == engine:
            return run.folder / artifact
    weights = [a for a in run.artifacts if BY_SUFFIX.get(Path(a).suffix) == "eager"]
    if not weights:
        raise VestalError(
            f"{run.folder} has {', '.join(run.artifacts)}; a file for the {engine} engine can only "
            "be made from a state_dict or safetensors"
        )
    arguments = [str(run.folder), weights[0], BY_ENGINE[engine], str(folder.resolve())]
    shape = [str(side) for side in (2, *run.input_shape)]
    fixed = {"PYTHONHASHSEED": "0"}
    with ChildProcess(run.model, __name__, *arguments, *shape, environment=fixed) as child:
        try:
            made = child.exchange(b"", "converting the weights", seconds=None)["file"]
        except ChildDied as error:
            raise VestalError(
                f"{weights[0]} of {run.folder} cannot be converted for the {engine} engine: "
                f"{error.output.rpartition('; ')[2]}"
            ) from None
    return folder / str(made)


def main(run: Path, weights: str, kind: str, folder: Path, shape: list[int]) -> None:
    """Convert the weights; report the name of the new file to the parent process."""
    channel = Channel()
    import torch

    from vestal.weights.saving import save
    from vestal_handlers.engines import eager

    module = eager.build(run, PACKAGE)
    eager.fill(module, eager.read(run / weights), weights)
    (made,) = save(module.eval(), [kind], folder, torch.zeros(shape))
    channel.write(file=made)


if __name__ == "__main__":
    end_with_parent()
    _, run_, weights_, kind_, folder_, *shape_ = sys.argv
    main(Path(run_), weights_, kind_, Path(folder_), [int(side) for side in shape_])
